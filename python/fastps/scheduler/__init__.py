"""The scheduler: who is alive, which server holds which shard, clocks, and the chunk queue.

All but ``service``, ``journal`` and ``cluster_map`` is pure: a message and the time go in, actions
come out; no thread, no socket, no clock. ``state`` composes the rest: ``workers``,
``table_requests`` and ``publishing`` act on ``facts``, which are made of ``membership``,
``tables``, ``rounds`` and, for each ``group``, ``clocks``, ``barrier``, ``chunks`` and ``pace``.
``service`` is the one shell of sockets and time, ``cluster_map`` the one caller of the compiled
core. ``journal`` keeps ``records`` on disk, ``replay`` makes a state of them.
"""
