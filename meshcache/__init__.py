"""meshcache: a distributed cache for Python teams, a peer-to-peer mesh over ZeroMQ."""

__version__ = "0.1.0"
