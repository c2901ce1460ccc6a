"""What ``scripts/chaos`` is made of: a load that checks every answer, ways to hurt a mesh, and scenarios of both.

``ledger`` says what a read may return, ``tally`` counts, ``lane`` chooses operations, ``load`` runs lanes in processes
of their own; ``nodes`` and ``namespaces`` have the meshes, ``watch`` looks at them; the other modules are scenarios,
listed in ``program``, and ``report`` and ``plot`` tell what came of them. ``write_behind`` is a subcommand of its own:
``kill_writer`` is what it does, to a ``private_postgres``.
"""
