"""The memcached door: this node as a memcached server, over plain TCP in the node's own loop; see MEMCACHED.md.

``door`` listens and has the connections, ``connection`` is one of them with its bytes, ``session`` runs its commands in
their order. What a command does to the mesh is a *flow* (``flows``, and ``meta_flows`` for the meta commands): a
generator that yields requests and is sent their results. The requests are those that a client's frame would have
brought, and ``asks`` hands them to the node's core.
"""
