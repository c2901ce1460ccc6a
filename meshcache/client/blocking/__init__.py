"""The client for threads: its calls, its connections, and what it hears of announcements."""
