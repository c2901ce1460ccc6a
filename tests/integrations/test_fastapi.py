"""Cached responses, the dependency and the lifespan for FastAPI and Starlette."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.routing import Route
from starlette.testclient import TestClient

from meshcache import AsyncClient, Client, Config, Node, OperationTimeout, UsageError
from meshcache.integrations.fastapi import cached_response, mesh_cache, mesh_lifespan
from meshcache.local.processes import HOST, find_base_port

if TYPE_CHECKING:
    OnlyForTypeCheckers = str

PATIENCE_S = 10.0
SCHEME = APIKeyHeader(name="X-Key")
Cache = Annotated[AsyncClient, Depends(mesh_cache)]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(Config.from_tables(node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"})) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.client() as client:
        client.clear()
        yield client


@pytest.fixture
def seeds(node: Node, client: Client) -> str:
    return node.config.node.listen


@pytest.fixture
def app(seeds: str) -> FastAPI:
    return FastAPI(lifespan=mesh_lifespan(seeds))


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as browser:
        yield browser


@pytest.fixture
def count() -> Callable[[], int]:
    """Return a function that counts its calls."""
    return itertools.count(1).__next__


# ---- the app's client


def test_the_dependency_is_the_client_of_the_app(app: FastAPI, browser: TestClient, client: Client) -> None:
    @app.put("/keys/{key}")
    async def put(key: str, cache: Cache) -> bool:
        await cache.set(key, "stored")
        return True

    assert browser.put("/keys/k").json() is True
    assert client.get("k") == "stored"


def test_a_lifespan_can_be_part_of_another(seeds: str) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with mesh_lifespan(seeds, namespace="own:")(app):
            await app.state.meshcache.set("k", 1)
            yield

    app = FastAPI(lifespan=lifespan)
    with TestClient(app):
        inside = app.state.meshcache
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(inside.get("k"))


def test_an_app_without_a_client_is_told_what_it_lacks() -> None:
    app = FastAPI()

    @app.get("/")
    @cached_response()
    async def page() -> str:
        return "page"

    with pytest.raises(UsageError, match=r"lifespan=mesh_lifespan\(…\)"):
        TestClient(app).get("/")


# ---- what is cached


class Report(BaseModel):
    number: int
    title: str = "report"


class Draft(Report):
    secret: str = "not for the reader"


def test_a_response_is_cached_as_the_route_makes_it(
    app: FastAPI, browser: TestClient, count: Callable[[], int]
) -> None:
    @app.get("/reports/{number}", response_model=Report, response_model_exclude={"title"}, status_code=200)
    @cached_response(ttl=60)
    async def report(number: int, response: Response) -> Draft:
        response.headers["X-Calls"] = str(count())
        return Draft(number=number)

    first, second, other = (browser.get(f"/reports/{number}") for number in (1, 1, 2))
    assert first.json() == second.json() == {"number": 1}
    assert other.json() == {"number": 2}
    assert first.headers["etag"] == second.headers["etag"] != other.headers["etag"]
    assert [each.headers["x-calls"] for each in (first, second, other)] == ["1", "1", "2"]
    assert "age" not in first.headers
    assert second.headers["age"] == "0"
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert browser.get("/reports/x").status_code == 422


@pytest.mark.parametrize("sync", [True, False])
def test_endpoints_may_be_plain_functions_and_return_responses(
    app: FastAPI, browser: TestClient, count: Callable[[], int], sync: bool
) -> None:
    def text(request: Request) -> PlainTextResponse:
        threads.append(threading.get_ident())
        return PlainTextResponse(f"{count()} {request.method}", headers={"X-Own": "1"})

    async def awaited(request: Request) -> PlainTextResponse:
        return text(request)

    threads: list[int] = []
    app.get("/text")(cached_response(ttl=60)(text if sync else awaited))
    app.get("/loop")(awaited)
    browser.get("/loop")
    for _ in range(2):
        answer = browser.get("/text")
        assert (answer.text, answer.headers["x-own"]) == ("2 GET", "1")
    loop, ran = threads
    assert (ran != loop) == sync
    assert "parameters" not in app.openapi()["paths"]["/text"]["get"]


def test_a_name_that_only_a_type_checker_sees_does_no_harm(app: FastAPI, browser: TestClient) -> None:
    @app.get("/", response_model=None)
    @cached_response(ttl=60)
    async def page(request: Request) -> OnlyForTypeCheckers:
        return request.method

    assert [browser.get("/").json() for _ in range(2)] == ["GET", "GET"]


def test_in_starlette_alone(seeds: str, count: Callable[[], int]) -> None:
    @cached_response(ttl=60)
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"page {count()}")

    @cached_response(ttl=60)
    async def wrong(request: Request) -> Any:
        return {"no": "response"}

    class Pages(HTTPEndpoint):
        @cached_response(ttl=60)
        async def get(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"class {count()}")

    routes = [Route("/page", page), Route("/class", Pages), Route("/wrong", wrong)]
    with TestClient(Starlette(routes=routes, lifespan=mesh_lifespan(seeds))) as browser:
        assert [browser.get("/page").text for _ in range(2)] == ["page 1"] * 2
        assert [browser.get("/class").text for _ in range(2)] == ["class 2"] * 2
        with pytest.raises(TypeError, match="returned dict, where Starlette needs a Response"):
            browser.get("/wrong")


def test_dependencies_run_for_every_request_and_what_they_set_is_its_own(
    app: FastAPI, browser: TestClient, count: Callable[[], int]
) -> None:
    def allowed(response: Response, x_key: Annotated[str, Header()]) -> str:
        if x_key == "wrong":
            raise HTTPException(403)
        response.set_cookie("who", x_key)
        return x_key

    @app.get("/", dependencies=[Depends(allowed)])
    @cached_response(ttl=60)
    async def page() -> int:
        return count()

    for who in ("ada", "bob"):
        browser.cookies.clear()
        answer = browser.get("/", headers={"X-Key": who})
        assert (answer.json(), answer.cookies["who"]) == (1, who)
    browser.cookies.clear()
    assert browser.get("/", headers={"X-Key": "wrong"}).status_code == 403


def test_tags_ttl_and_key(app: FastAPI, browser: TestClient, client: Client, count: Callable[[], int]) -> None:
    @app.get("/tagged/{number}")
    @cached_response(ttl=60, tags=lambda request: [f"n:{request.path_params['number']}"])
    async def tagged(number: int) -> int:
        return count()

    @app.get("/keyed/{name}")
    @cached_response(ttl=60, tags=["all"], key=lambda request: request.path_params["name"].lower())
    async def keyed(name: str) -> int:
        return count()

    @app.post("/changed/{number}")
    async def changed(number: int, cache: Cache) -> None:
        await cache.invalidate_tags(f"n:{number}")

    def numbers() -> list[int]:
        return [browser.get(path).json() for path in ("/tagged/1", "/tagged/2", "/keyed/A", "/keyed/a")]

    assert numbers() == numbers() == [1, 2, 3, 3]
    browser.post("/changed/1")
    assert numbers() == [4, 2, 3, 3]
    assert client.invalidate_tags("all") == 1
    assert numbers() == [4, 2, 5, 5]


def test_headers_in_vary_have_a_response_each(app: FastAPI, browser: TestClient, count: Callable[[], int]) -> None:
    @app.get("/")
    @cached_response(ttl=60, vary=["Accept-Language", "X-A"])
    async def page() -> int:
        return count()

    def asked(**headers: str) -> int:
        answer = browser.get("/", headers=headers)
        assert answer.headers["vary"] == "accept-language, x-a"
        return int(answer.text)

    assert [asked(**{"accept-language": "en"}) for _ in range(2)] == [1, 1]
    assert asked(**{"accept-language": "fr"}) == 2
    assert asked(**{"accept-language": "fr", "x-a": "1"}) == 3
    assert asked(**{"accept-language": "fr", "x-b": "1"}) == 2
    with pytest.raises(TypeError, match="several names"):
        cached_response(vary="cookie")


# ---- what is not


def refusals() -> dict[str, Callable[[], Any]]:
    async def stream() -> AsyncIterator[bytes]:
        yield b"piece"

    return {
        "status": lambda: PlainTextResponse("x", 201),
        "set-cookie": lambda: PlainTextResponse("x", headers={"Set-Cookie": "a=b"}),
        "no-store": lambda: PlainTextResponse("x", headers={"Cache-Control": "No-Store"}),
        "no-cache": lambda: PlainTextResponse("x", headers={"Cache-Control": "max-age=5, no-cache"}),
        "private": lambda: PlainTextResponse("x", headers={"Cache-Control": 'private="x"'}),
        "max-age=0": lambda: PlainTextResponse("x", headers={"Cache-Control": "max-age=0, must-revalidate"}),
        "s-maxage=0": lambda: PlainTextResponse("x", headers={"Cache-Control": "max-age=5, s-maxage=0"}),
        "vary": lambda: PlainTextResponse("x", headers={"Vary": "Origin, X-A"}),
        "vary *": lambda: PlainTextResponse("x", headers={"Vary": "*"}),
        "large": lambda: PlainTextResponse("x" * 1_001),
        "stream": lambda: StreamingResponse(stream()),
        "file": lambda: FileResponse(__file__),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_may_not_be_given_to_others_is_not_kept(
    app: FastAPI, browser: TestClient, count: Callable[[], int], name: str
) -> None:
    @app.get("/")
    @cached_response(ttl=60, vary=["x-a"], body_bytes_max=1_000)
    async def page() -> Any:
        count()
        return refusals()[name]()

    first = browser.get("/")
    browser.cookies.clear()  # a request with a cookie would pass by
    second = browser.get("/")
    assert first.text == second.text
    assert "age" not in second.headers
    assert count() == 3


@pytest.mark.parametrize(
    "headers",
    [{}, {"Cache-Control": "public, max-age=60"}, {"Cache-Control": "max-age=0, s-maxage=60"}, {"Vary": "X-A"}],
)
def test_what_may_be_given_to_others_is_kept(
    app: FastAPI, browser: TestClient, count: Callable[[], int], headers: dict[str, str]
) -> None:
    @app.get("/")
    @cached_response(ttl=60, vary=["x-a"], body_bytes_max=1_000)
    async def page() -> PlainTextResponse:
        count()
        return PlainTextResponse("x" * 1_000, headers=headers)

    assert browser.get("/").content == browser.get("/").content
    assert count() == 2


@pytest.mark.parametrize(
    ("headers", "options", "calls"),
    [
        ({"Authorization": "Bearer a"}, {}, 2),
        ({"Cookie": "a=b"}, {}, 2),
        ({"Cache-Control": "no-store"}, {}, 2),
        ({"Authorization": "Bearer a", "Cookie": "a=b"}, {"vary": ["cookie"]}, 2),
        ({"Authorization": "Bearer a"}, {"public": True}, 1),
        ({"Cookie": "a=b"}, {"vary": ["Cookie"]}, 1),
    ],
)
def test_requests_of_one_person_pass_by(
    app: FastAPI,
    browser: TestClient,
    count: Callable[[], int],
    headers: dict[str, str],
    options: dict[str, Any],
    calls: int,
) -> None:
    @app.get("/")
    @cached_response(ttl=60, **options)
    async def page() -> int:
        return count()

    assert [browser.get("/", headers=headers).json() for _ in range(2)][-1] == calls


@pytest.mark.parametrize(
    ("options", "calls"), [({}, [1, 2, 3]), ({"vary": ["x-key"]}, [1, 2, 1]), ({"public": True}, [1, 1, 1])]
)
def test_a_key_in_a_header_of_fastapi_is_one_persons(
    app: FastAPI, browser: TestClient, count: Callable[[], int], options: dict[str, Any], calls: list[int]
) -> None:
    def user(key: Annotated[str, Depends(SCHEME)]) -> str:
        return key

    router = APIRouter(dependencies=[Depends(user)])

    @router.get("/")
    @cached_response(ttl=60, **options)
    async def page() -> int:
        return count()

    app.include_router(router)
    assert [browser.get("/", headers={"X-Key": who}).json() for who in ("ada", "bob", "ada")] == calls


def test_only_get_is_answered_from_the_cache(app: FastAPI, browser: TestClient, count: Callable[[], int]) -> None:
    @app.api_route("/", methods=["GET", "HEAD", "POST"])
    @cached_response(ttl=60)
    async def page() -> int:
        return count()

    browser.head("/")
    assert [browser.get("/").json(), browser.post("/").json(), browser.get("/").json()] == [2, 3, 2]


def test_an_error_is_not_kept(app: FastAPI, browser: TestClient, count: Callable[[], int]) -> None:
    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> int:
        if count() == 1:
            raise HTTPException(503)
        return 7

    assert [browser.get("/").status_code for _ in range(3)] == [503, 200, 200]
    assert count() == 3


def test_a_stream_is_refused_at_once() -> None:
    async def pieces() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="pieces yields its response piece by piece"):
        cached_response()(pieces)


# ---- conditions


@pytest.mark.parametrize("said", ["{}", "W/{}", '"other", {}', "*"])
def test_who_has_the_response_is_told_so(
    app: FastAPI, browser: TestClient, count: Callable[[], int], said: str
) -> None:
    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> PlainTextResponse:
        return PlainTextResponse(f"{count()}", headers={"Cache-Control": "max-age=5", "X-Own": "1"})

    etag = browser.get("/").headers["etag"]
    answer = browser.get("/", headers={"If-None-Match": said.format(etag)})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["cache-control"] == "max-age=5"
    assert not {"x-own", "content-type", "content-length"} & set(answer.headers)
    assert browser.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_an_etag_of_the_endpoint_stays(app: FastAPI, browser: TestClient) -> None:
    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> PlainTextResponse:
        return PlainTextResponse("x", headers={"ETag": 'W/"own"'})

    for _ in range(2):
        assert browser.get("/").headers["etag"] == 'W/"own"'
    assert browser.get("/", headers={"If-None-Match": '"own"'}).status_code == 304


# ---- many at once


async def gathered(app: FastAPI, seeds: str, times: int) -> list[httpx.Response]:
    async with mesh_lifespan(seeds)(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=PATIENCE_S) as browser:
            return await asyncio.gather(*(browser.get("/") for _ in range(times)))


def test_one_request_runs_the_endpoint_while_the_others_wait(
    app: FastAPI, seeds: str, count: Callable[[], int]
) -> None:
    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> int:
        return count()

    answers = asyncio.run(gathered(app, seeds, 20))
    assert {each.json() for each in answers} == {1}


def test_requests_do_not_wait_for_what_is_not_kept(app: FastAPI, seeds: str, count: Callable[[], int]) -> None:
    together = asyncio.Event()
    running: list[int] = []

    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> PlainTextResponse:
        running.append(count())
        if len(running) > 1:  # the first has to end before the others hear of it
            if len(running) == 20:
                together.set()
            await asyncio.wait_for(together.wait(), PATIENCE_S)
        return PlainTextResponse(f"{len(running)}", headers={"Set-Cookie": "a=b"})

    answers = asyncio.run(gathered(app, seeds, 20))
    assert [each.status_code for each in answers] == [200] * 20


def test_background_tasks_run_once_for_one_computation(app: FastAPI, browser: TestClient) -> None:
    done: list[str] = []

    @app.get("/")
    @cached_response(ttl=60)
    async def page(tasks: BackgroundTasks) -> str:
        tasks.add_task(done.append, "done")
        return "page"

    @app.get("/own")
    @cached_response(ttl=60)
    async def own() -> PlainTextResponse:
        return PlainTextResponse("own", background=BackgroundTask(done.append, "own"))

    assert [browser.get("/").json() for _ in range(2)] == ["page", "page"]
    assert [browser.get("/own").text for _ in range(2)] == ["own", "own"]
    assert done == ["done", "own"]


# ---- without a mesh


@pytest.mark.parametrize("headers", [{}, {"Cache-Control": "no-store"}])
def test_while_the_mesh_fails_endpoints_run(count: Callable[[], int], headers: dict[str, str]) -> None:
    app = FastAPI(lifespan=mesh_lifespan(f"{HOST}:{find_base_port(1)}", timeout=0.2))

    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> PlainTextResponse:
        return PlainTextResponse(f"{count()}", headers=headers)

    with TestClient(app) as browser:
        assert [browser.get("/").text for _ in range(2)] == ["1", "2"]
        assert app.state.meshcache.fallbacks.loads == 2


def test_the_error_of_the_mesh_can_be_had_instead() -> None:
    app = FastAPI(lifespan=mesh_lifespan(f"{HOST}:{find_base_port(1)}", timeout=0.2))

    @app.get("/")
    @cached_response(ttl=60, on_error="raise")
    async def page() -> str:
        return "page"

    with TestClient(app) as browser, pytest.raises(ConnectionError):
        browser.get("/")
    with pytest.raises(ValueError, match="on_error"):
        cached_response(on_error="miss")  # type: ignore[arg-type]  # as a user may


def test_who_has_waited_long_for_another_request_runs_the_endpoint(
    app: FastAPI, browser: TestClient, monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]
) -> None:
    @app.get("/")
    @cached_response(ttl=60)
    async def page() -> str:
        return "page"

    @app.get("/fails")
    @cached_response(ttl=60)
    async def fails() -> str:
        count()
        raise OperationTimeout("of its own")

    async def waited(*_: Any, **__: Any) -> None:
        raise OperationTimeout("others have been computing it")

    with pytest.raises(OperationTimeout, match="of its own"):
        browser.get("/fails")
    assert count() == 2
    monkeypatch.setattr(AsyncClient, "get_or_set", waited)
    assert browser.get("/").json() == "page"
