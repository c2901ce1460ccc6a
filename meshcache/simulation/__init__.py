"""A whole mesh in one process, on virtual time, from one seed: nodes, clients, the network and its faults.

::

    world.py       time, random numbers, the trace and its digest
    network.py     connections that behave as ZeroMQ's do, and the faults on them
    hosts.py       a node's process around a NodeCore: turns, crashes, pauses
    clients.py     the third driver of session.py's flows
    swarm.py       hundreds of member tables without the rest of a node
    history.py     what was asked and answered, and what must never be in it
    workload.py    what the clients do
    simulator.py   the parts put together; ``scripts/simulate`` and the tests run many seeds of it

Nothing here is a mock: the nodes are the real core, the clients run the real session, and they exchange real frames
only, so that no two parts ever share an object.

Sources: FoundationDB's simulation, and TigerBeetle's (configurations drawn from the seed; a safety phase, then a
liveness phase in which the faults have stopped).
"""
