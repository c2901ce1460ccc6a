"""Backends for the frameworks of Python teams: each module serves one framework, and only it imports that framework."""
