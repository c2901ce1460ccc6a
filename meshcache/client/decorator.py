"""``@cache.cached``: a function whose results are kept in the cache, computed once in the whole cluster.

The key is made of the function's name and its arguments, so that processes that run the same code share the results::

    module.function:(argument,argument,…)    in the order of the signature

Arguments are brought into one form first: the same call has the same key, whether its arguments are given by position,
by name, or left to their defaults. And no other call has that key: each argument is written as a text that stands for
this value alone, and that is the same in every process. Text, numbers, truth values, None, dates, times, Decimals,
UUIDs, enums and classes have such a text, and so have tuples, lists, sets and dicts of these; values of different types
differ (1, 1.0, True and "1"). Anything else, also an instance of a subclass of these types or of a user's own time zone
class, is refused with a TypeError; ``key=`` says how to make a key of it. forms.py has the texts. naming.py has the
names: of methods, of lambdas, of functions that other functions make; a name that could also be another function's is
refused, too.

``self``, the first argument of a method, counts by its class: the instances of one class share their results, those of
a subclass have their own. A method whose result depends on its instance says so with ``key=``, which is given all
arguments. An enum member, and an object whose class defines ``__eq__``, counts by its value; if the value has no text,
the method needs ``key=``. ``cls`` is a class like any other argument.

A key that would be longer than READABLE_MAX, or that is not printable, ends in a hash of the whole key. A key that
``key=`` makes does so only if it would be longer than any key may be.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import types
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from meshcache.client.arguments import Key
from meshcache.client.delivery import Flow
from meshcache.client.forms import form
from meshcache.client.get_or_set import result
from meshcache.client.naming import Names, is_method, located
from meshcache.protocol.messages import KEY_BYTES_MAX

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
F_co = TypeVar("F_co", covariant=True)
"""Cached or AsyncCached."""

READABLE_MAX: Final = 200
"""The most bytes of a key that is written out; a longer key ends in a hash."""
HASH_BYTES: Final = 16
_ANY_ARGUMENTS: Final = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class Cache(Protocol):
    """What a cached function needs of its client; in an AsyncClient all of it is awaitable."""

    @property
    def get_or_set(self) -> Callable[..., Any]:
        """See Client."""

    @property
    def refresh(self) -> Callable[..., Any]:
        """See Client."""

    @property
    def invalidate(self) -> Callable[..., Any]:
        """See Client."""


class _Function(Generic[P]):
    """A function whose results are in the cache; looked up in an object or class, it becomes a method."""

    __name__: str
    __qualname__: str

    def __init__(self, by: _Decorator, function: Any) -> None:
        self._binds_class = isinstance(function, classmethod)
        self._binds = isinstance(function, types.FunctionType) or self._binds_class
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        itself: Any = self  # which gets a __call__ where its kind is known
        functools.update_wrapper(itself, function)
        self._by = by
        self.cache = by.cache
        self.function = function
        self._own_key = by.key
        self._options = by.options
        # It is like a write: its caller must learn when it could not be done.
        self._options_anew = {name: value for name, value in by.options.items() if name != "on_error"}
        self._names = by.names
        self._key_bytes_max = KEY_BYTES_MAX - len(by.namespace)
        self._bound: tuple[Any, ...] = ()
        """The object or class to which this method is bound; empty for a function."""
        self._name = by.names.of_function(by.namespace, function, alone=by.key is None)
        self.__name__ = getattr(function, "__name__", self._name)
        self.__qualname__ = getattr(function, "__qualname__", self._name)
        try:
            self._signature = inspect.signature(function)
        except ValueError:  # written in C, without a signature: a call is known by its arguments as written
            self._signature = _ANY_ARGUMENTS
        first = next(iter(self._signature.parameters), "")
        self._object_name = first if first in {"self", "cls"} and is_method(function) else ""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of this call, without the client's namespace.

        Raises TypeError if the arguments do not fit the function, or if one of them cannot be part of a key.
        """
        if self._own_key is not None:
            return self._made_key(self._own_key(*self._bound, *args, **kwargs))
        call = self._signature.bind(*self._bound, *args, **kwargs)
        call.apply_defaults()
        class_name = self._names.of_class
        try:
            parts = [
                self._object(value) if name == self._object_name else form(value, class_name)
                for name, value in call.arguments.items()
            ]
        except TypeError as error:
            raise TypeError(f"{self._name}: {error}; give cached() a key= that makes one") from None
        key = f"{self._name}:({','.join(parts)})"
        raw = key.encode("utf-8", "surrogatepass")
        limit = min(READABLE_MAX, self._key_bytes_max)
        return key if len(raw) <= limit and key.isprintable() else _hashed(raw, limit)

    def _load(self, args: Any, kwargs: Any) -> Callable[[], Any]:
        return functools.partial(self.function, *self._bound, *args, **kwargs)

    def _made_key(self, key: Any) -> Key:
        """Return the key that ``key=`` has made, put behind the function's name."""
        if not isinstance(key, (str, bytes)):
            raise TypeError(f"{self._name}: key= must return str or bytes, returned {key!r:.80}")
        name = f"{self._name}:"
        whole = name + key if isinstance(key, str) else name.encode() + key
        raw = whole.encode("utf-8", "surrogatepass") if isinstance(whole, str) else whole
        fits = len(raw) <= self._key_bytes_max and not _ends_in_hash(raw)
        return whole if fits and not _has_surrogates(key) else _hashed(raw, self._key_bytes_max)

    def _object(self, value: Any) -> str:
        """Return the text of the object or class to which a method is bound."""
        kind: Any = type(value)
        if self._object_name == "cls" and not isinstance(value, type):
            raise TypeError("cls is no class (where Python looks class methods up so, put cached() over @classmethod)")
        if isinstance(value, (type, Enum)) or kind.__eq__ is not object.__eq__:
            return form(value, self._names.of_class)
        return f"{self._names.of_class(kind)}()"

    def _method(self, instance: Any, owner: type | None) -> Any:
        """Return the method bound to the object or, if it is a class method, to the class."""
        first = (type(instance) if owner is None else owner) if self._binds_class else instance
        if first is None or not self._binds or self._bound:
            return self
        method = object.__new__(type(self))
        method.__dict__.update(self.__dict__, _bound=(first,), __wrapped__=types.MethodType(self.function, first))
        return method

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle it by its name, as functions and methods are pickled."""
        if self._bound:
            (first,) = self._bound
            found: Any = getattr(first, self.__name__, None)
            if isinstance(found, _Function) and found.function is self.function:
                return getattr, (first, self.__name__)
        elif located(self.__module__, self.__qualname__) is self:
            return str(self.__qualname__)
        raise pickle.PicklingError(
            f"can not pickle the cached function {self.__module__}.{self.__qualname__}: it is not found under this "
            "name. Define it at the top of a module or in a class there, and put cached() over all other decorators"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<cached {self._name}>"


class Cached(_Function[P], Generic[P, R]):
    """A function with its results in the cache."""

    _by: CachedBy

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or have it computed."""
        # Not by calling get_or_set(): a function that calls itself would need those frames at every level.
        load = functools.partial(self.function, *self._bound, *args, **kwargs)
        found: R = result(self._by.run(self._by.filling(self.cache_key(*args, **kwargs), load, **self._options)))
        return found

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Drop the result of this call from the cache, on all nodes; return how many were dropped, 0 or 1."""
        dropped: int = self.cache.invalidate(self.cache_key(*args, **kwargs))
        return dropped

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result of this call now, store it, and return it."""
        key = self.cache_key(*args, **kwargs)
        found: R = self.cache.refresh(key, self._load(args, kwargs), **self._options_anew)
        return found

    @overload
    def __get__(  # type: ignore[misc]  # mypy takes the type of self for too narrow, but finds the right overload
        self: Callable[Concatenate[type[S], Q], R], instance: object, owner: type[S]
    ) -> Cached[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self: Callable[Concatenate[S, Q], R], instance: S, owner: type | None = None) -> Cached[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind it as a method: the object or, for a class method, the class becomes the first argument."""
        return self._method(instance, owner)


class AsyncCached(_Function[P], Generic[P, R]):
    """A coroutine function with its results in the cache; ``inspect`` sees a coroutine function, too."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See Cached."""
        key = self.cache_key(*args, **kwargs)
        result: R = await self.cache.get_or_set(key, self._load(args, kwargs), **self._options)
        return result

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """See Cached."""
        dropped: int = await self.cache.invalidate(self.cache_key(*args, **kwargs))
        return dropped

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See Cached."""
        key = self.cache_key(*args, **kwargs)
        result: R = await self.cache.refresh(key, self._load(args, kwargs), **self._options_anew)
        return result

    # What inspect.iscoroutinefunction() checks in objects that are not functions.
    __code__ = __call__.__code__
    __defaults__ = None
    __kwdefaults__ = None

    @overload
    def __get__(  # type: ignore[misc]  # as above
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, R]], instance: object, owner: type[S]
    ) -> AsyncCached[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], Coroutine[Any, Any, R]], instance: S, owner: type | None = None
    ) -> AsyncCached[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """See Cached."""
        return self._method(instance, owner)


class InClass(Protocol[F_co]):
    """What type checkers see where a cached class method or static method is defined."""

    def __get__(self, instance: object, owner: type | None = None) -> F_co:
        """Return the cached function, which no longer takes the class."""


class _Decorator:
    """The common part of both decorators."""

    def __init__(
        self,
        cache: Cache,
        key: Callable[..., Key] | None,
        options: dict[str, Any],
        names: Names,
        namespace: bytes,
    ) -> None:
        self.cache = cache
        self.key = key
        self.options = options
        self.names = names
        self.namespace = namespace

    def check(self, function: Any) -> tuple[str, bool]:
        """Refuse what cannot be cached; return the function's name, and whether it is a coroutine function."""
        function = getattr(function, "__func__", function)
        name = getattr(function, "__qualname__", None) or repr(function)
        if not callable(function):
            hint = "; put @property over it" if isinstance(function, (property, functools.cached_property)) else ""
            raise TypeError(f"cached() is for functions, and {name} is a {type(function).__name__}{hint}")
        ways = (function, _call_of(function))
        if any(map(inspect.isgeneratorfunction, ways)) or any(map(inspect.isasyncgenfunction, ways)):
            raise TypeError(f"{name} is a generator function: what it yields is not kept; return a list or a tuple")
        if isinstance(function, _Function) and function.cache is self.cache:
            raise TypeError(f"{name} is cached already")
        return name, any(map(inspect.iscoroutinefunction, ways))


class CachedBy(_Decorator):
    """What ``Client.cached`` returns: it decorates a plain function."""

    def __init__(
        self,
        cache: Cache,
        key: Callable[..., Key] | None,
        options: dict[str, Any],
        names: Names,
        namespace: bytes,
        run: Callable[[Flow[Any]], Any],
        filling: Callable[..., Flow[Any]],
    ) -> None:
        super().__init__(cache, key, options, names, namespace)
        self.run = run
        """Carries out a flow."""
        self.filling = filling
        """Returns the flow of ``get_or_set``."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a static method is a callable, too
        self, function: classmethod[Any, P, R] | staticmethod[P, R]
    ) -> InClass[Cached[P, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Cached[P, R]: ...
    def __call__(self, function: Any) -> Any:
        """Return the function with its results in the cache."""
        name, is_coroutine_function = self.check(function)
        if is_coroutine_function:
            raise TypeError(f"{name} is a coroutine function: it needs an AsyncClient's cached()")
        return Cached(self, function)


class AsyncCachedBy(_Decorator):
    """What ``AsyncClient.cached`` returns: it decorates a coroutine function."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # as above
        self, function: classmethod[Any, P, Awaitable[R]] | staticmethod[P, Awaitable[R]]
    ) -> InClass[AsyncCached[P, R]]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]]) -> AsyncCached[P, R]: ...
    def __call__(self, function: Any) -> Any:
        """Return the function with its results in the cache."""
        name, is_coroutine_function = self.check(function)
        if not is_coroutine_function:
            raise TypeError(f"{name} is no coroutine function: it needs a Client's cached()")
        return AsyncCached(self, function)


def refuse_function(ttl: object) -> None:
    """Tell the user what to write if the decorator was used without parentheses."""
    if callable(ttl) or isinstance(ttl, (classmethod, staticmethod)):
        raise TypeError("cached() takes a ttl, not the function: write @cache.cached() with parentheses")


def _call_of(function: Any) -> Any:
    """Return the function that is run when an object is called; None for functions and classes themselves."""
    while isinstance(function, functools.partial):
        function = function.func
    return None if isinstance(function, type) else getattr(type(function), "__call__", None)  # noqa: B004  (it is run)


def _hashed(raw: bytes, limit: int) -> str:
    """Return a key of ``limit`` bytes: the beginning of a longer key, and a hash of all of it."""
    digest = hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest()
    begin = raw[: max(0, limit - 1 - len(digest))].decode("utf-8", "ignore")
    return f"{begin}#{digest}"


def _has_surrogates(key: Key) -> bool:
    """Tell whether a key is text that cannot be written in UTF-8."""
    return isinstance(key, str) and not key.isascii() and any("\ud800" <= letter <= "\udfff" for letter in key)


def _ends_in_hash(raw: bytes) -> bool:
    """Tell whether a key looks like a longer key that was shortened with a hash."""
    tail = raw[-2 * HASH_BYTES :]
    return raw[-2 * HASH_BYTES - 1 : -2 * HASH_BYTES] == b"#" and all(letter in b"0123456789abcdef" for letter in tail)
