"""What ``scripts/soak`` is made of: a mesh that ages under load, and the lines that are laid through what it takes.

``program`` is the command line and the run itself, ``schedule`` says how long everything takes, ``churn`` does to the
mesh what happens to meshes, ``callers`` are the processes with clients and ``errands`` what they do there, checked by
the ledger of ``faults``. ``samples`` looks at all processes meanwhile, ``census`` at the tables within a client, and
``allocations`` at what it has allocated; ``slopes`` judges, ``report`` and ``plot`` tell. ``planted`` has the leaks
that a soak must find.
"""
