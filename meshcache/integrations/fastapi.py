"""For FastAPI and Starlette: a client for the life of an app, a dependency, and cached responses.

::

    app = FastAPI(lifespan=mesh_lifespan("127.0.0.1:7101"))

    @app.get("/reports/{number}")
    @cached_response(ttl=60, tags=lambda request: [f"report:{request.path_params['number']}"])
    async def report(number: int) -> Report: ...

    @app.put("/reports/{number}")
    async def change(number: int, cache: Annotated[AsyncClient, Depends(mesh_cache)]) -> None:
        await cache.invalidate_tags(f"report:{number}")

The decorator stands in the endpoint's place: FastAPI has read the parameters and run the dependencies of a request,
those that check who asks among them, before a cached response is looked for. What the endpoint returns is made a
response as the route says, by FastAPI itself, and that is cached: status, headers and bytes. One request in the whole
cluster runs the endpoint, while others for the same response wait for it.

Not every response may be given to everybody. Only a GET is answered from the cache, and not if it has ``Authorization``
or ``Cookie``, or the header of an ``APIKeyHeader`` of FastAPI, or says ``Cache-Control: no-store``. A response is kept
only if its status is 200, it sets no cookie, its ``Cache-Control`` does not forbid it (no-store, no-cache, private,
max-age=0), it varies on no header but those in ``vary``, and is no stream and no longer than ``body_bytes_max``. If one
is not kept, the key is marked for PASS_S: so long, requests for it do not wait for each other.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import DEFAULT, DO_NOT_CACHE, Tags, Ttl
from meshcache.client.fallbacks import OUTAGES, OnError, loads_on_error
from meshcache.errors import OperationTimeout, UsageError
from meshcache.integrations.rendering import Rendering

BODY_BYTES_MAX: Final = 1 << 20
PASS_S: Final = 5.0
PASS_TIMEOUT_S: Final = 0.25
"""How long marking a key may take: the response is there already."""
PREFIX: Final = "response:"

_OWNED: Final = frozenset({"authorization", "cookie"})
"""What makes a request one person's."""
_FORBIDDING: Final = frozenset({"no-store", "no-cache", "private"})
_ETAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_WITH_304: Final = frozenset({b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"age"})
_REQUEST: Final = "request_for_the_cache"
_RESPONSE: Final = "response_for_the_cache"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Found = TypeVar("Found")


def mesh_lifespan(
    seeds: str | Iterable[str] | None = None, **options: Any
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Return a lifespan that connects an app to a mesh; the arguments are those of ``AsyncClient``.

    An app with a lifespan of its own enters it there: ``async with mesh_lifespan(…)(app):``.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncClient(seeds, **options) as client:
            app.state.meshcache = client
            yield

    return lifespan


async def mesh_cache(connection: HTTPConnection) -> AsyncClient:
    """Return the client of the app, as a dependency: ``Annotated[AsyncClient, Depends(mesh_cache)]``."""
    client = getattr(connection.app.state, "meshcache", None)
    if not isinstance(client, AsyncClient):
        raise UsageError("this app has no client: make it with lifespan=mesh_lifespan(…), and let its server run that")
    return client


def cached_response(
    ttl: Ttl = DEFAULT,
    *,
    tags: Tags | Callable[[Request], Tags] = (),
    vary: Collection[str] = (),
    public: bool = False,
    key: Callable[[Request], str] | None = None,
    stale_ttl: float | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    on_error: OnError = "load",
) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator for endpoints whose responses are to be cached for ``ttl`` seconds.

    ``tags`` are those of the response, or a function of the request. ``vary`` names request headers: for each of their
    values there is a response. ``public=True``: the response is the same for everybody, also where the request has
    ``Authorization`` or ``Cookie``; without it, name them in ``vary`` to cache for each holder. What else a response
    depends on, a dependency's result for example, belongs in ``vary`` or ``key``, too. ``key`` returns a text
    in place of the URL. ``stale_ttl`` and ``on_error`` are as for ``get_or_set``: while the mesh fails, the endpoint
    runs ("load"), or the error is raised ("raise").
    """
    loads_on_error(on_error)
    if isinstance(vary, str):
        raise TypeError(f"vary must be several names of headers, is the single name {vary!r}")
    names = tuple(sorted({name.lower() for name in vary}))
    rule = _Rule(ttl, tags, names, public, key, stale_ttl, body_bytes_max, on_error)

    def decorate(endpoint: Endpoint) -> Endpoint:
        if inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint):
            raise TypeError(f"{endpoint.__qualname__} yields its response piece by piece: a stream can not be cached")
        return _caching(endpoint, rule)

    return decorate


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is cached, and for how long."""

    ttl: Ttl
    tags: Tags | Callable[[Request], Tags]
    vary: tuple[str, ...]
    public: bool
    key: Callable[[Request], str] | None
    stale_ttl: float | None
    body_bytes_max: int
    on_error: OnError

    def concerns(self, request: Request, key_headers: frozenset[str]) -> bool:
        """Tell whether a request may be answered from the cache; ``key_headers`` are those by which it is let in."""
        if request.method != "GET" or "no-store" in request.headers.get("cache-control", "").lower():
            return False
        own = {name for name in key_headers | _OWNED if name in request.headers}
        return self.public or own <= set(self.vary)

    def key_of(self, request: Request) -> str:
        """Return the key: a digest, since a URL and headers have no limit that fits."""
        url = str(request.url) if self.key is None else self.key(request)
        parts = [url, *(", ".join(request.headers.getlist(name)) for name in self.vary)]
        digest = hashlib.blake2b(digest_size=20)
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(raw) + raw)
        return PREFIX + digest.hexdigest()

    def may_keep(self, response: Response) -> bool:
        """Tell whether a response may be kept, and given to others."""
        headers = response.headers
        if response.status_code != 200 or "set-cookie" in headers or hasattr(response, "body_iterator"):
            return False
        varies = {name.strip().lower() for name in ",".join(headers.getlist("vary")).split(",")} - {""}
        if not varies <= set(self.vary) or _is_forbidden(headers.getlist("cache-control")):
            return False
        body = getattr(response, "body", None)
        return isinstance(body, bytes | memoryview) and len(body) <= self.body_bytes_max


class _Kept(NamedTuple):
    """A response in the cache."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    made_at: float
    """When it was made, by the clock of who made it."""

    @classmethod
    def of(cls, response: Response, vary: tuple[str, ...]) -> _Kept:
        body = bytes(response.body)
        headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
        if "etag" not in response.headers:
            kind = response.headers.get("content-type", "").encode("latin-1")
            digest = hashlib.blake2b(kind + b"\n" + body, digest_size=16).hexdigest()
            headers.append((b"etag", b'"%s"' % digest.encode()))
        if vary and "vary" not in response.headers:
            headers.append((b"vary", ", ".join(vary).encode("latin-1")))
        return cls(response.status_code, headers, body, time.time())

    def answer(self, request: Request, *, hit: bool, background: BackgroundTask | None = None) -> Response:
        """Return the response, or that the caller has it already."""
        headers = list(self.headers)
        if hit:
            headers.append((b"age", b"%d" % max(0, int(time.time() - self.made_at))))
        if self._is_known(request):
            response = Response(status_code=304, background=background)
            response.raw_headers = [(name, value) for name, value in headers if name in _WITH_304]
            return response
        response = Response(self.body, status_code=self.status, background=background)
        response.raw_headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        return response

    def _is_known(self, request: Request) -> bool:
        said = ",".join(request.headers.getlist("if-none-match")).encode("latin-1", "replace").strip()
        own = next((value for name, value in self.headers if name == b"etag"), b"")
        return said == b"*" or own.removeprefix(b"W/") in _ETAG.findall(said)


def _is_forbidden(fields: list[str]) -> bool:
    """Tell whether these fields Cache-Control forbid that a cache for many keeps a response."""
    directives = {}
    for directive in ",".join(fields).lower().split(","):
        name, _, argument = directive.strip().partition("=")
        directives[name] = argument.strip(' "')
    lifetime = directives.get("s-maxage", directives.get("max-age", ""))
    return not _FORBIDDING.isdisjoint(directives) or (lifetime.isdecimal() and int(lifetime) == 0)


def _caching(endpoint: Endpoint, rule: _Rule) -> Endpoint:
    """Return an endpoint that answers from the cache."""
    rendering = Rendering()
    is_coroutine = inspect.iscoroutinefunction(endpoint)

    @functools.wraps(endpoint)
    async def caching(*args: Any, **kwargs: Any) -> Any:
        request = _first(Request, (*args, *kwargs.values()))
        given = _first(Response, kwargs.values())
        if request is None:
            raise UsageError(f"{endpoint.__qualname__} with @cached_response is an endpoint: it needs a request")
        for name in (_REQUEST, _RESPONSE):
            kwargs.pop(name, None)

        async def run() -> Any:
            if is_coroutine:
                return await endpoint(*args, **kwargs)
            return await run_in_threadpool(endpoint, *args, **kwargs)

        if not rule.concerns(request, rendering.key_headers(request)):
            return await run()
        # What dependencies have set is for this request alone.
        own = [] if given is None else list(given.raw_headers)
        response = await _answer(rule, request, lambda: rendering.rendered(request, run, given, len(own)))
        response.raw_headers.extend(own)
        return response

    caching.__signature__ = _signature(endpoint)  # type: ignore[attr-defined]  # what inspect.signature looks for
    return caching  # type: ignore[return-value]  # it stands for the endpoint


def _first(kind: type[Found], among: Iterable[Any]) -> Found | None:
    return next((one for one in among if isinstance(one, kind)), None)


def _signature(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of an endpoint, by which FastAPI gives it its request and its response, too.

    Annotations that are text are read where the endpoint is defined: FastAPI would read them in this module.
    """
    names = getattr(inspect.unwrap(endpoint), "__globals__", {})

    def read(annotation: Any) -> Any:
        try:
            return eval(annotation, names) if isinstance(annotation, str) else annotation  # noqa: S307  (as inspect does)
        except NameError:  # a name that only a type checker sees: FastAPI says so, if it needs it
            return annotation

    signature = inspect.signature(endpoint)
    given = [one.replace(annotation=read(one.annotation)) for one in signature.parameters.values()]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        for name, kind in ((_REQUEST, Request), (_RESPONSE, Response))
        if not any(_is_for(kind, one.annotation) for one in given)
    ]
    last = [one for one in given if one.kind is one.VAR_KEYWORD]
    return signature.replace(
        parameters=[*(one for one in given if one not in last), *extra, *last],
        return_annotation=read(signature.return_annotation),
    )


def _is_for(kind: type, annotation: Any) -> bool:
    """Tell whether FastAPI gives this to a parameter with this annotation."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return issubclass(annotation, kind) if isinstance(annotation, type) else annotation == kind.__name__


async def _answer(rule: _Rule, request: Request, run: Callable[[], Awaitable[Response]]) -> Response:
    """Answer from the cache; run the endpoint if there is nothing there."""
    cache = await mesh_cache(request)
    key = rule.key_of(request)
    began = False
    own: Response | None = None

    async def load() -> Any:
        nonlocal began, own
        began = True
        own = await run()
        if rule.may_keep(own):
            return tuple(_Kept.of(own, rule.vary))
        with suppress(*OUTAGES):
            await cache.set(key, None, PASS_S, timeout=PASS_TIMEOUT_S)
        return DO_NOT_CACHE(None)

    tags = rule.tags(request) if callable(rule.tags) else rule.tags
    try:
        found = await cache.get_or_set(key, load, rule.ttl, stale_ttl=rule.stale_ttl, tags=tags, on_error=rule.on_error)
    except OperationTimeout:
        if began:
            raise
        found = None  # others have been computing it for long: this request does not wait any more
    if found is None:
        return own if own is not None else await run()
    background = own.background if own is not None else None
    return _Kept(*found).answer(request, hit=own is None, background=background)
