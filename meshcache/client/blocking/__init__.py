"""The client for threads: its calls, its connections, and the reception of the invalidation streams."""
