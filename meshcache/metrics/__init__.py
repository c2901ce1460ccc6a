"""Metrics for Prometheus: those of a node, and ``ClientCollector`` for programs that export their own.

A node's metrics are served by the node itself, at ``/metrics``. A program that uses a client registers a collector of
it with the registry that it exports::

    import prometheus_client
    from meshcache.metrics import ClientCollector

    prometheus_client.REGISTRY.register(ClientCollector(cache))
"""

from meshcache.metrics.client import ClientCollector

__all__ = ["ClientCollector"]
