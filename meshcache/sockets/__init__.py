"""ZeroMQ and TCP for clients and nodes alike: contexts, sockets, names, descriptors, and waiting for them."""
