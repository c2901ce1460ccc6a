"""The names of functions and classes in keys: names that every other process gives them, too.

A function that is defined in a module is known by ``module.function``, a method by ``module.Class.method``. Where such
a name could mean several functions, more is added:

- For the program itself, ``__main__``: the path of its file, or the name that ``python -m`` was given.
- For a lambda, a function called ``_``, and one that was typed in or made by ``exec``: a hash of its code.
- For a function with more than its code: the text (forms.py) of the variables of the function around it, of the
  arguments in a ``functools.partial``, of the object of a bound method, as they are when the function is decorated.

Such an object that has no text, or can change, is known in this process only. So names are *taken*: the first function
has the name, and a second one with other objects is refused, as is another local function of that name. A function at
the top of a module may be defined anew, since a module can be reloaded: that is only a warning. Classes are named like
functions: a class that cannot be found by its name, because a function made it, takes the name.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from meshcache.client.forms import form, is_fixed

NAMES_MAX: Final = 10_000
"""How many names one client remembers as taken; the oldest are forgotten first."""
_INNER_MAX: Final = 4
"""How deep functions that belong to other functions are looked into."""
_MAINS: Final = {"__main__", "__mp_main__"}
_LOCAL: Final = "<locals>"
_NAMELESS: Final = {"<lambda>", "_"}
_HASH_BYTES: Final = 8
_UNKNOWN: Final = object()
"""Stands for a variable that has no value yet; it equals nothing else."""


class NameTaken(TypeError):
    """The name belongs to another function or class already."""


@dataclass(slots=True)
class _Origin:
    """What a callable is made of."""

    name: str
    code: CodeType | None = None
    local: bool = False
    belongings: list[Any] = field(default_factory=list)
    """The objects that belong to it beside its code."""
    globals: dict[str, Any] | None = None
    """The global variables that it uses, if they are not those of its module."""


class Names:
    """The names taken in the keys of one client and those derived from it."""

    def __init__(self) -> None:
        self._classes: dict[str, Callable[[], Any]] = {}
        self._named: dict[int, tuple[Callable[[], Any], str]] = {}
        """Names found before, by the id of the class: a metaclass may call two classes equal."""
        self._codes: dict[tuple[bytes, str], str] = {}
        self._objects: dict[tuple[bytes, str], list[Callable[[], Any]]] = {}

    def of_class(self, cls: type) -> str:
        """Return the name of a class. Raises TypeError if another class has the name, and neither is found by it."""
        known = self._named.get(id(cls))
        if known is not None and known[0]() is cls:
            return known[1]
        name = _dotted(_module_name(cls.__module__), cls.__qualname__)
        found = located(cls.__module__, cls.__qualname__)
        if found is not cls and (isinstance(found, type) or _take(self._classes, name, _reference(cls))() is not cls):
            raise NameTaken(f"there are several classes with the name {name}")
        self._named.pop(id(cls), None)
        _take(self._named, id(cls), (_reference(cls), name))
        return name

    def of_function(self, namespace: bytes, function: Any, *, alone: bool) -> str:
        """Return the name of a decorated function, and take it in this namespace.

        ``alone``: the objects that belong to the function are part of the name; else a ``key=`` tells functions of one
        name apart. Raises TypeError if the name is another function's.
        """
        origin = _origin(function)
        if not alone:
            return origin.name
        self._check_code(namespace, origin)
        loose = [] if origin.globals is None else [origin.globals]
        name = origin.name + self._belongings(origin, loose, 0)
        if loose:
            own = list(map(_reference, loose))
            taken = _take(self._objects, (namespace, name), own)
            if taken is not own and any(
                one() is not other or other is _UNKNOWN for one, other in zip(taken, loose, strict=True)
            ):
                raise NameTaken(_other(origin.name))
        return name

    def _check_code(self, namespace: bytes, origin: _Origin) -> None:
        """Warn if a function of this name with other code exists."""
        name = (namespace, origin.name)
        own = "" if origin.code is None else fingerprint(origin.code)
        if _take(self._codes, name, own) == own:
            return
        if origin.local:
            raise NameTaken(_other(origin.name))
        self._codes[name] = own
        warnings.warn(f"{_other(origin.name)}, or they have each other's results", stacklevel=5)

    def _belongings(self, origin: _Origin, loose: list[Any], depth: int) -> str:
        """Return a text for the objects that belong to a function.

        Objects that it does not describe for ever go to ``loose``.
        """
        texts = [self._belonging(value, loose, depth) for value in origin.belongings]
        return f"[{','.join(texts)}]" if texts else ""

    def _belonging(self, value: Any, loose: list[Any], depth: int) -> str:
        if isinstance(value, ModuleType):
            return f"<{value.__name__}>"
        if _is_function(value) and depth < _INNER_MAX:
            inner = _origin(value)
            return f"<{inner.name}{self._belongings(inner, loose, depth + 1)}>"
        try:
            text = form(value, self.of_class)
        except NameTaken:
            raise
        except TypeError:
            loose.append(value)
            return "?"
        if not is_fixed(value):
            loose.append(value)
        return text


def located(module: str, qualname: str) -> Any:
    """Return what is found under this name; None if there is nothing."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def is_method(function: Any) -> bool:
    """Tell whether a function was defined in the body of a class."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(around) and not around.endswith(_LOCAL)


def fingerprint(code: CodeType) -> str:
    """Return a hash of what a function does: of its code without line numbers, file and name."""
    return hashlib.blake2b(_code_text(code).encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()


def _code_text(code: CodeType) -> str:
    constants = [_code_text(one) if isinstance(one, CodeType) else form(one, str) for one in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return repr((code.co_code, code.co_flags, code.co_argcount, code.co_kwonlyargcount, constants, names))


def _other(name: str) -> str:
    return f"{name}: another function is cached under this name; give cached() a key= that tells their calls apart"


def _take(table: dict[Any, Any], name: Any, value: Any) -> Any:
    """Return the owner of the name: the value, unless the name was taken before."""
    if name not in table and len(table) >= NAMES_MAX:
        table.pop(next(iter(table)), None)
    return table.setdefault(name, value)


def _reference(value: Any) -> Callable[[], Any]:
    """Return a function that returns this object; it holds the object weakly if that is possible."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


# ---- what a callable is made of


def _is_function(value: Any) -> bool:
    """Tell whether a value is a function or method of any kind, not a class or an object with ``__call__``."""
    named = hasattr(value, "__qualname__") or isinstance(value, functools.partial)
    return callable(value) and named and not isinstance(value, type)


def _origin(function: Any) -> _Origin:
    if isinstance(function, functools.partial):
        origin = _origin(function.func)
        held = [part for item in sorted(function.keywords.items()) for part in item]
        origin.belongings += [len(function.args), *function.args, *held]
        return origin
    if isinstance(function, MethodType):
        origin = _origin(function.__func__)
        origin.belongings.append(function.__self__)
        return origin
    if isinstance(function, FunctionType):
        return _of_function(function)
    if "__wrapped__" in getattr(function, "__dict__", ()):
        return _origin(function.__wrapped__)
    if isinstance(function, type) or hasattr(function, "__qualname__"):
        return _of_builtin(function)
    origin = _origin(type(function).__call__)
    origin.belongings.append(function)
    return origin


def _of_builtin(function: Any) -> _Origin:
    """Describe a class, or a function or method that is written in C."""
    home = getattr(function, "__objclass__", function)
    owner = getattr(function, "__self__", None) if isinstance(function, BuiltinFunctionType) else None
    name = _dotted(_module_name(home.__module__ or "builtins"), function.__qualname__)
    return _Origin(name, belongings=[] if owner is None or isinstance(owner, ModuleType) else [owner])


def _of_function(function: FunctionType) -> _Origin:
    qualname = function.__qualname__
    nameless = qualname.rpartition(".")[2] in _NAMELESS
    code, module = function.__code__, function.__module__ or "builtins"
    digest = fingerprint(code) if nameless or not _is_shared(module) else ""
    name = _dotted(_module_name(module), qualname, digest)
    own = getattr(sys.modules.get(module), "__dict__", None) is function.__globals__
    variables = list(_variables(function))
    return _Origin(name, code, _LOCAL in code.co_qualname, variables, None if own else function.__globals__)


def _is_shared(module: str) -> bool:
    """Tell whether other processes have this module, too: it is no prompt, no notebook, no ``exec``."""
    if module in _MAINS:
        return _module_name(module) not in _MAINS
    return module in sys.modules and module != "builtins"


def _variables(function: FunctionType) -> Iterator[Any]:
    """Yield the variables of the functions around it, except itself and the class of ``super()``."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in {function.__name__, "__class__"}:
            try:
                yield cell.cell_contents
            except ValueError:  # the variable has no value yet
                yield _UNKNOWN


def _module_name(module: str) -> str:
    """Return the name of a module; for the program, the name by which another process imports or runs it."""
    if module not in _MAINS:
        return module
    main = sys.modules.get(module)  # in a child of multiprocessing the program is called __mp_main__
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name not in _MAINS:
        return str(spec.name)
    return module if file is None or file.startswith("<") else _real_path(file)


@functools.lru_cache(maxsize=8)
def _real_path(file: str) -> str:
    return os.path.realpath(file)


def _dotted(module: str, qualname: str, digest: str = "") -> str:
    """Join the parts of a name; a name that could be confused with another text is put in quotes."""
    name = f"{module}{digest and '#'}{digest}.{qualname}"
    parts = f"{module}.{qualname}".split(".")
    return name if all(part.isidentifier() or part in {_LOCAL, "<lambda>"} for part in parts) else repr(name)
