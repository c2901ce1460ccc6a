"""Makes a response of what an endpoint returns, as the route of the endpoint says.

Starlette's endpoints return responses. FastAPI's may return anything, and FastAPI makes the response: it checks the
value by the response model, leaves out what the route says, and serialises it. It offers no function for that. So there
is a second route for each, with the same settings, whose endpoint only returns the value that it is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

_VALUE: Final = "meshcache.value"
"""Under this name a request carries the value to its second route."""
_SETTINGS: Final = (
    "response_model",
    "status_code",
    "response_class",
    "response_model_include",
    "response_model_exclude",
    "response_model_by_alias",
    "response_model_exclude_unset",
    "response_model_exclude_defaults",
    "response_model_exclude_none",
)

Render = Callable[[Request], Awaitable[Response]]


class Rendering:
    """The responses of one endpoint."""

    def __init__(self) -> None:
        self._routes: dict[int, tuple[Any, Render]] = {}
        """By the id of a route (it has no hash): the route, and what renders for it."""
        self._key_headers: dict[int, tuple[Any, frozenset[str]]] = {}
        """By the id of a route: the route, and its headers with keys."""

    def key_headers(self, request: Request) -> frozenset[str]:
        """Return the headers with which a request shows its route of FastAPI that it may be answered, by APIKeyHeader.

        (What else FastAPI has for that is in ``Authorization``, in ``Cookie``, or in the URL.)
        """
        route = request.scope.get("route")
        known = self._key_headers.get(id(route))
        if known is None:
            known = self._key_headers[id(route)] = (route, frozenset(_key_headers(getattr(route, "dependant", None))))
        return known[1]

    async def rendered(
        self, request: Request, run: Callable[[], Awaitable[Any]], given: Response | None, foreign: int
    ) -> Response:
        """Run the endpoint, and return the response that its route makes of what it returns.

        ``given`` is FastAPI's parameter of type Response, on which an endpoint may set headers and the status; its
        first ``foreign`` headers are not from this endpoint.
        """
        value = await run()
        if isinstance(value, Response):
            return value
        render = self._render(request.scope.get("route"), value)
        request.scope[_VALUE] = value
        try:
            response = await render(request)
        finally:
            del request.scope[_VALUE]
        if given is not None:
            response.status_code = given.status_code or response.status_code
            response.raw_headers.extend(given.raw_headers[foreign:])
        return response

    def _render(self, route: Any, value: Any) -> Render:
        known = self._routes.get(id(route))
        if known is None:
            known = self._routes[id(route)] = (route, _renderer(route, value))
        return known[1]


def _renderer(route: Any, value: Any) -> Render:
    from fastapi.routing import APIRoute  # noqa: PLC0415  (Starlette alone needs no FastAPI)

    if not isinstance(route, APIRoute):
        raise TypeError(f"the endpoint returned {type(value).__name__}, where Starlette needs a Response")
    settings = {name: getattr(route, name) for name in _SETTINGS}
    return APIRoute(route.path, _given_value, **settings).get_route_handler()


def _given_value(request: Request) -> Any:
    return request.scope[_VALUE]


def _key_headers(dependant: Any) -> Iterator[str]:
    """Yield the names of headers with keys that these dependencies ask for."""
    if dependant is None:
        return
    from fastapi.security import APIKeyHeader  # noqa: PLC0415  (as above)

    if isinstance(dependant.call, APIKeyHeader):
        yield dependant.call.model.name.lower()
    for inner in dependant.dependencies:
        yield from _key_headers(inner)
