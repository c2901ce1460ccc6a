"""The benchmark behind ``scripts/bench``: meshcache beside its peers, interleaved in one run.

::

    measure    clocks, CPU time and memory of other processes, blocks and their summaries
    servers    starts and stops what is measured: redis-server, memcached, an echo over ZeroMQ, a mesh
    clients    what a row calls: the same few operations on every contestant, the way its own users write them
    rows       what is measured
    load       client programs of the throughput rows, each a process of its own
    memory     bytes per entry
    stages     where the time of a get goes inside client and node
    targets    what we promise, and whether this run shows it
    report     table, JSON and plot
    program    the command line
"""
