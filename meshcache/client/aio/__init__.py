"""The client for asyncio: its calls, its connections, and what it hears of announcements."""
