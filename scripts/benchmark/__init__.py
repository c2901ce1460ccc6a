"""What ``scripts/bench`` is made of: one module for each of its subcommands, and what they share.

::

    program         the command line: which subcommand, and what it runs
    measure         clocks, CPU time and memory of other processes, blocks and their summaries

    against_peers   meshcache beside its peers, interleaved in one run; it is made of
      servers         starts and stops what is measured: redis-server, memcached, an echo over ZeroMQ, a mesh
      clients         what a row calls: the same few operations on every contestant, the way its own users write them
      rows            what is measured
      load            starts client programs, for the rows that have them; client_program is what they run
      echo            a round trip over ZeroMQ, and nothing else
      memory          bytes per entry
      stages          where the time of a get goes inside client and node
      targets         what we promise, and whether this run shows it
      target_table    ``scripts/bench targets``: measures what the targets need, and shows these alone
      gate            what each row has lost since the last release
      report          table, JSON and plot
    store           a node's store: memory, longest calls, time per key
    client          what a call costs its client
    near            a client's near cache: the cost of a hit, and how soon a copy is void
    large           large values beside redis, and beside the least that ZeroMQ takes for their bytes
    queue           the queue of WriteBehind
    hotkeys         what finding hot keys costs, and what it brings
    memcached       one client of memcached, against a node and against a memcached
    scale           how much of a node's throughput is left when there are more nodes
    ring            how even the loads are, and how much moves
    compare         this tree beside a commit; ``worker`` is its client
    refresh_readme  runs the others, and writes their figures into README.md
"""
