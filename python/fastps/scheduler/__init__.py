"""The scheduler: who is alive, which server holds which shard, clocks, and the chunk queue.

``messages``, ``membership``, ``ring``, ``tables``, ``clocks``, ``chunks`` and ``state`` are pure:
a message and the time go in, actions come out; they start no thread, open no socket and read no
clock. ``service`` is their one shell of sockets and time, ``cluster_map`` the one caller of the
compiled core.
"""
