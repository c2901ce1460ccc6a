"""The client for asyncio: its calls, its connections, and the reception of the invalidation streams."""
