"""A backend for Flask-Caching: ``CACHE_TYPE = "meshcache.integrations.flask_caching.MeshCache"``.

===================== ==============================================================================
setting               means
===================== ==============================================================================
CACHE_MESH_SEEDS      the addresses of nodes, as for ``meshcache.Client``; None: MESHCACHE_SEEDS says
CACHE_KEY_PREFIX      is put before every key; ``cache.clear()`` drops only keys that begin with it
CACHE_DEFAULT_TIMEOUT seconds; 0 is for ever
CACHE_OPTIONS         the other arguments of the backend for cachelib: ``on_error``, ``timeout``, …
===================== ==============================================================================
"""

from __future__ import annotations

from typing import Any, Self

from flask import Flask
from flask_caching.backends.base import BaseCache

from meshcache.integrations import cachelib


class MeshCache(cachelib.MeshCache, BaseCache):
    """The backend for cachelib, made from the settings of a Flask app."""

    @classmethod
    def factory(cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> Self:  # noqa: ARG003  (Flask-Caching gives it)
        """Make a cache. What CACHE_ARGS and CACHE_OPTIONS say takes precedence over the other settings."""
        named = {"key_prefix": config.get("CACHE_KEY_PREFIX") or ""}
        if not args:
            named["seeds"] = config.get("CACHE_MESH_SEEDS")
        return cls(*args, **{**named, **kwargs})
