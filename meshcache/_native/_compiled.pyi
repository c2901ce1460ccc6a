"""Types of the native module."""

built_from: str
"""The digest of the C sources that it was built from; see build_hook.py."""
