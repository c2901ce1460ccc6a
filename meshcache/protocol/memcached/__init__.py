"""memcached's text protocol, pure: what the bytes of a connection ask for, and how answers and values are written.

``grammar`` turns bytes into the commands of ``commands``, with the help of ``meta`` for the meta commands and of
``numbers`` for memcached's way of reading numbers. ``values`` says how a value with its client flags becomes the
content of a record, and the other way round. What a command does to the mesh is decided by the door: node/memcached.
"""
