"""A whole cluster in one thread and in virtual time: the real scheduler and the real servers' chain
logic, model workers, and a network and processes that fail. One seed is one schedule.

`run` is the door: ``python -m simulator.run --seeds 0:1000`` from the folder tests.
"""
