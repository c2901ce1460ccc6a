"""What ``scripts/soak`` is made of: a mesh that ages under load, and the lines that are laid through what it takes.

``program`` is the command line and the run itself, ``schedule`` says how long everything takes, ``churn`` does to the
mesh what happens to meshes, ``callers`` are the processes with clients and ``errands`` what they do there, checked by
the ledger of ``faults``. ``samples`` looks at all processes meanwhile, ``census`` at the tables within a client, and
``allocations`` at the memory of each process; ``slopes`` judges, ``report`` and ``plot`` tell. ``within`` is what nodes
have of a soak in them: what tells of their memory, and the leaks that a soak must find.
"""
