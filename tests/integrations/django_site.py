"""A Django project in one file, for servers that run it in several processes: ``wsgi`` and ``asgi``.

Every page is JSON. The mesh is where MESHCACHE_SEEDS says. The sessions are in the cache, too.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.cache import cache, caches
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import cache_page

BACKEND: Final = "meshcache.integrations.django.MeshCache"

settings.configure(
    ALLOWED_HOSTS=["*"],
    CACHES={
        "default": {"BACKEND": BACKEND},
        "lenient": {"BACKEND": BACKEND, "OPTIONS": {"on_error": "miss", "timeout": 0.5}},
    },
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)


def page(_: HttpRequest, number: int) -> JsonResponse:
    found = cache.get(f"page:{number}")
    if found is None:
        cache.set(f"page:{number}", {"text": f"text of {number}"}, timeout=60)
    return JsonResponse({"text": f"text of {number}", "hit": found is not None, "pid": os.getpid()})


async def apage(_: HttpRequest, number: int) -> JsonResponse:
    found = await cache.aget(f"page:{number}")
    if found is None:
        await cache.aset(f"page:{number}", {"text": f"text of {number}"}, timeout=60)
    return JsonResponse({"text": f"text of {number}", "hit": found is not None, "pid": os.getpid()})


def visit(request: HttpRequest) -> JsonResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"], "pid": os.getpid()})


async def avisit(request: HttpRequest) -> JsonResponse:
    session: Any = request.session
    await session.aset("visits", await session.aget("visits", 0) + 1)
    return JsonResponse({"visits": await session.aget("visits"), "pid": os.getpid()})


@cache_page(60)
def whole(_: HttpRequest) -> JsonResponse:
    return JsonResponse({"made_by": os.getpid()})


def lenient(_: HttpRequest) -> JsonResponse:
    found = caches["lenient"].get("page")
    caches["lenient"].set("page", "text")
    return JsonResponse({"hit": found is not None, "computed": caches["lenient"].get_or_set("other", os.getpid)})


urlpatterns = [
    path("sync/page/<int:number>", page),
    path("sync/visit", visit),
    path("async/page/<int:number>", apage),
    path("async/visit", avisit),
    path("whole", whole),
    path("lenient", lenient),
]

django.setup()
wsgi = get_wsgi_application()
asgi = get_asgi_application()


def use_both_clients() -> None:
    """Connect before a server forks, if it loads this file before that."""
    cache.set("loaded_by", os.getpid())
    asyncio.run(cache.aset("loaded_by", os.getpid()))


thread = threading.Thread(target=use_both_clients)  # in this one a loop may be running
thread.start()
thread.join()
