"""A node, as programs have it: started in a thread or run in the calling one, asked to stop, and a client of its mesh.

The node itself, its sockets and its loop, is a Server (server.py). It lives exactly as long as the loop runs, so that
nothing of it is there before or after.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self

from meshcache.config import Config
from meshcache.durations import waiting_s
from meshcache.errors import MeshcacheError, UsageError
from meshcache.node.journal import log
from meshcache.node.server import Asked, Server
from meshcache.sockets.waiting import threads_are_greenlets
from meshcache.sockets.wakeup import Wakeup

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client


class Node:
    """A node of the mesh, in a thread of this process (``start``) or in the calling thread (``run``).

    Raises ConfigError where it cannot run: a port or the node's id is in use, another cluster answers at a seed.
    """

    def __init__(self, config: Config | None = None, *, supervised: bool = False) -> None:
        self.config = config or Config()
        self.supervised = supervised
        """Another process looks after this one, and starts it again if it dies; it then says who had it leave."""
        self._thread: threading.Thread | None = None
        self._asked = Asked(threading.Event(), threading.Event())
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._wakeup = Wakeup()
        self._server: Server | None = None
        """While the node runs."""

    # -- for applications ----------------------------------------------------------------------------------

    def start(self, *, timeout_s: float = 10.0) -> Node:
        """Run in a thread; return when the node serves, after ``timeout_s`` at the latest.

        A program that ends while its node runs has it leave the mesh as ``stop`` does.
        Raises UsageError if it was started before: a node runs once; and where threads are greenlets, of gevent or
        eventlet: a node would stop all others.
        """
        if self._thread is not None:
            raise UsageError("this node was started before: make another Node of the same configuration")
        if threads_are_greenlets():
            raise UsageError(
                "a node can not run in this program, whose threads are greenlets: start it as a process of its own,"
                " with `meshcache node`, `meshcache up`, or meshcache.LocalMesh"
            )
        self._thread = threading.Thread(target=self._run_guarded, name=f"meshcache-{self.config.node.node_id}")
        self._thread.daemon = True
        self._thread.start()
        atexit.register(self.stop)  # else the others would miss it, and call it dead
        limit_s = waiting_s(timeout_s)
        self._ready.wait(limit_s)
        if self._failure is not None:
            self._thread.join(limit_s)
            raise self._failure
        return self

    def run(self, on_ready: Callable[[], None] | None = None, on_look: Callable[[], None] | None = None) -> None:
        """Run in the calling thread until ``stop`` is called.

        ``on_ready`` is called once, when the node has joined; ``on_look`` several times a second, as long as the node's
        loop turns. Both are called in this thread, and must not wait.
        """
        try:
            self._server = server = Server(
                self.config, self._asked, self._wakeup.fd, self._wakeup, supervised=self.supervised
            )
            try:
                server.run(on_ready, on_look)
            finally:
                self._server = None
                server.close()
        finally:
            self._wakeup.close()

    def drain(self, *, timeout_s: float | None = None) -> None:
        """Hand over what this node owns, then leave and stop. Callable from any thread, and from a signal handler.

        Of a node that was started in a thread it waits for the end of that, ``timeout_s`` at most.
        """
        self._ask_to(self._asked.to_drain, timeout_s)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Leave the mesh at once and close the sockets. Callable as ``drain`` is."""
        self._ask_to(self._asked.to_stop, timeout_s)

    def _ask_to(self, what: threading.Event, timeout_s: float | None) -> None:
        what.set()
        self._wakeup()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(waiting_s(timeout_s))

    def client(self, **options: Any) -> Client:
        """Return a client of this node's mesh; the caller closes it. ``options`` are those of ``Client``."""
        from meshcache.client.blocking.client import Client  # noqa: PLC0415  (a node process needs no client)

        options.setdefault("key_file", self.config.key_path)
        return Client(self.config.node.address, **options)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a node can not be pickled or copied: pickle its config, or a client of it: node.client()")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run_guarded(self) -> None:
        try:
            self.run(self._ready.set)
        except BaseException as error:  # noqa: BLE001  (start() raises it in the caller's thread)
            self._failure = error
            if not isinstance(error, MeshcacheError):
                log.exception("node_failed", node_id=self.config.node.node_id)
        finally:
            self._ready.set()
            atexit.unregister(self.stop)
