"""Checks a value before msgpack packs it, in time linear in its size.

msgpack follows every reference anew. So it refuses a value that contains itself only when it is 1,024 levels down,
after it has packed everything beside the loop as many times. A value whose parts are shared on many levels would be
written out in full, and forty lists of two can come to 2**40 elements. And extension types that a caller has made
itself would be packed as if they were ours. So the containers of a value are visited first, each once.

The quick look goes level by level. It can confirm that there are only types that can be stored, and no container twice.
If a container is there twice, or something is wrong, the *walk* goes depth first, and knows the way to where it is: it
tells loops from parts that are only shared, which are allowed, and says where the trouble is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any, Final, NoReturn

from meshcache.client.plain import CONTAINERS, LEAVES, NATIVE, Form, advice, form_of, translate
from meshcache.errors import SerializationError

NESTED_MAX: Final = 1024
"""Levels of containers in one value: as many as msgpack reads."""
ELEMENTS_MAX: Final = 1 << 24
"""How many elements a value may have when every shared part is written out wherever it occurs."""
FEW: Final = 24
"""Up to this number, a loop over the values is faster than a set of their types."""
PLACE_LENGTH_MAX: Final = 400
"""How many characters an error may show of the way to a value that cannot be stored."""

Plains = dict[int, Any]
"""By ``id`` of an instance whose type has a form: what the form made of it. It keeps the instance alive, and so its
id."""


def survey(value: Any) -> Plains:
    """Return what forms make of the instances in ``value``.

    Raises SerializationError that says where the trouble is, and why.
    """
    kind = type(value)
    if kind in LEAVES:
        return {}
    plains: Plains = {}
    try:
        simple = _look(value, plains)
    except Exception:  # noqa: BLE001  (whatever a form raised, the walk says where)
        simple = False
    if not simple:
        _Walk(plains).run(value)
    return plains


def _look(value: Any, plains: Plains) -> bool:
    """Tell whether all is well; if not, or if in doubt, the walk must look closer."""
    level = [value]
    seen: set[int] = set()
    for _ in range(NESTED_MAX):
        deeper: list[Any] = []
        for container in level:
            key = id(container)
            if key in seen:
                return False
            seen.add(key)
            for part in _parts(container, plains):
                if not _are_leaves(part):
                    deeper += [child for child in part if type(child) not in LEAVES]
        if not deeper:
            return True
        level = deeper
    return False


def _parts(container: Any, plains: Plains) -> tuple[Collection[Any], ...]:
    """Return the values that are directly in a container."""
    kind = type(container)
    if kind is dict:
        return container, container.values()
    if kind in CONTAINERS:
        return (container,)
    form = form_of(kind)
    if form is None:
        raise TypeError(kind)
    return ((_plain(container, form, plains),),)


def _are_leaves(values: Collection[Any]) -> bool:
    if len(values) > FEW:
        return {*map(type, values)} <= LEAVES
    for value in values:  # noqa: SIM110  (no generator: this is what most values take)
        if type(value) not in LEAVES:
            return False
    return True


def _plain(instance: Any, form: Form, plains: Plains) -> Any:
    """Return what a form makes of an instance. It is made only once, so that it is the same object each time."""
    key = id(instance)
    if key not in plains:
        plains[key] = form.encode(instance)
    return plains[key]


class _Level:
    """A container on the way from the root."""

    __slots__ = ("container", "elements", "rest", "step")

    def __init__(self, container: Any, rest: Iterator[tuple[tuple[str, Any], Any]]) -> None:
        self.container = container
        self.rest = rest
        """The children that are not visited yet: how to name the step to each, and the child."""
        self.step = ("", None)
        self.elements = 0
        """How many elements were counted in it so far."""


class _Walk:
    """A walk depth first through a value, which knows the way from its root. Raises at the first problem."""

    def __init__(self, plains: Plains) -> None:
        self._plains = plains
        self._left: dict[int, int] = {}
        """By container that was visited and left: how many elements it has when it is written out."""
        self._open: dict[int, int] = {}
        """By container on the way, its level."""
        self._way: list[_Level] = []

    def run(self, value: Any) -> None:
        """Visit every container once."""
        self._enter(value)
        while self._way:
            level = self._way[-1]
            for step, child in level.rest:
                level.step = step
                if self._enter(child):
                    break
            else:
                self._way.pop()
                del self._open[id(level.container)]
                self._left[id(level.container)] = level.elements
                self._count(level.elements)

    def _enter(self, value: Any) -> bool:
        """Look at a value; return True if it is a container to be visited now. Its level has counted it itself."""
        kind, key = type(value), id(value)
        if kind in NATIVE:
            return False
        if kind in LEAVES:
            self._try(translate, value)
            return False
        if key in self._open:
            self._refuse(kind, f"it contains itself, it is {self._place(self._open[key])} once more")
        if key in self._left:
            self._count(self._left[key], shared=True)
            return False
        if len(self._way) >= NESTED_MAX:
            self._refuse(kind, f"a value has at most {NESTED_MAX:,} levels of containers in each other")
        form = form_of(kind)
        inside = CONTAINERS.get(kind)
        if inside is not None and {*map(type, inside(value))} <= NATIVE:  # all simple values: nothing in it to visit
            self._left[key] = len(value)
            self._count(len(value))
            return False
        if form is None and inside is None:
            self._refuse(kind, advice(kind))
        self._open[key] = len(self._way)
        rest = _steps(value) if form is None else iter([(("form", form.name), self._try(self._plain, value, form))])
        self._way.append(_Level(value, rest))
        if form is None:
            self._way[-1].elements += len(value)
        return True

    def _plain(self, value: Any, form: Form) -> Any:
        return _plain(value, form, self._plains)

    def _try(self, function: Callable[..., Any], value: Any, *more: Any) -> Any:
        try:
            return function(value, *more)
        except Exception as error:  # noqa: BLE001  (whatever a form of the user's raises)
            self._refuse(type(value), f"{type(error).__name__}: {error}", error)

    def _count(self, elements: int, *, shared: bool = False) -> None:
        if not self._way:
            return
        level = self._way[-1]
        level.elements += elements
        if shared and level.elements > ELEMENTS_MAX:
            text = "what stands in several places is stored at each of them, and here that makes more than"
            self._refuse(type(level.container), f"{text} {ELEMENTS_MAX:,} elements", depth=len(self._way) - 1)

    def _refuse(self, kind: type, why: str, error: Exception | None = None, depth: int | None = None) -> NoReturn:
        what = f"{kind.__qualname__} at {self._place(depth)}" if self._way else kind.__qualname__
        raise SerializationError(f"can not encode {what}: {why}") from error

    def _place(self, depth: int | None = None) -> str:
        """Return the way to a level, as text; None: to the value that is being looked at."""
        place = "value"
        for level in self._way[:depth]:
            what, label = level.step
            if what == "key":
                place = f"key of {place}"
            elif what == "form":
                place = f"{place} (as {label!r})"
            else:
                place = f"{place}[{label!r:.40}]" if type(label) in LEAVES else f"{place}[{type(label).__name__}]"
            if len(place) > PLACE_LENGTH_MAX:
                return f"{place[:PLACE_LENGTH_MAX]}…"
        return place


def _steps(container: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Return the children of a container that must be visited, and how to name the step to each."""
    if type(container) is dict:
        keys = ((("key", None), key) for key in container if type(key) not in NATIVE)
        items = ((("item", key), item) for key, item in container.items() if type(item) not in NATIVE)
        return chain(keys, items)
    return ((("item", i), item) for i, item in enumerate(container) if type(item) not in NATIVE)
