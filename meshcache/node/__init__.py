"""A running node: its loop, its sockets, and what keeps it within its memory and its descriptors."""
