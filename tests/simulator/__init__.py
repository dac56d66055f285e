"""A whole cluster in one thread and in virtual time: the real scheduler and the real servers' chain
logic, model workers, and a network and processes that fail. One seed is one schedule.

From the folder tests:

- ``python -m simulator.run --seeds 0:1000`` runs schedules, ``--trace 17`` shows one;
- ``--directed "a machine dies"`` shows one of those made by hand;
- ``--mutant no_seal`` puts a known bug in; ``python -m simulator.mutant_table`` measures all.

Where to look: `faults` makes a plan of a seed, `cluster` carries it out with the processes of
`scheduler_node`, `server_node` and `worker_node` (`client_node` is what that does on the wire)
in the `world` with its `network`; `checkers` and `histories` judge what they see.

A schedule has two parts. First everything goes wrong that the plan says, and nothing that was
promised may break. Then faults stop, and everything must come to rest: calls answered, copies
complete and equal, and what servers hold explained by what workers were told.
"""
