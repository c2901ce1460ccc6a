"""Rules for the code itself, which no other test would check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshcache

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "meshcache"
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE = sorted((PACKAGE / "core").rglob("*.py"))
PROGRAMS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix in {"", ".py"})

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600

GROUND = ("_native", "address", "checks", "config", "contradictions", "durations", "errors", "keys", "private_files")
"""Modules that all others may use, and that use only each other."""
MAY_USE = {
    "protocol": (),
    "core": ("protocol",),
    "client": ("protocol",),
    "sockets": ("protocol",),
    "client.blocking": ("protocol", "client", "sockets"),
    "client.aio": ("protocol", "client", "sockets"),
    "metrics": (),
    "web": (),
    "node": ("protocol", "core", "sockets", "metrics", "web"),
    "patterns": ("protocol", "client", "client.blocking", "client.aio"),
    "gateway": ("protocol", "client", "client.aio", "metrics", "web"),
    "simulation": ("protocol", "core", "client"),
    "local": ("client", "client.blocking", "sockets"),
    "integrations": ("client", "client.blocking", "client.aio", "patterns", "local"),
}
"""By room, the other rooms that it may use; a room that is not listed may use all. Rooms within a room belong to it,
unless they are listed themselves."""
PURE = ("protocol", "core", "client", "simulation")
"""Rooms that must not touch sockets, threads or processes."""
EXCEPTIONS = {("meshcache.node.node", "meshcache.client.blocking.client")}
"""``Node.client()`` is a convenience for programs, and imports what it needs when it is called."""

IMPURE_MODULES = {"socket", "zmq", "threading", "asyncio", "subprocess", "select", "selectors", "multiprocessing"}
BANNED_IN_CORE = IMPURE_MODULES | {"time", "datetime", "os", "secrets", "uuid", "logging", "structlog"}
RANDOM_ALLOWED = {"Random"}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every module that is imported, as far as the text shows, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 20
    assert len(CORE) > 10


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert dir(meshcache) == sorted(["__version__", *meshcache.__all__])
    for name in dir(meshcache):
        assert getattr(meshcache, name) is not None


def room_of(module: str) -> str:
    """Return the room of a module, by the names in MAY_USE; "" if it is in none."""
    parts = module.split(".")[1:]
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in MAY_USE and len(parts) > length:
            return name
    return "ground" if parts and parts[0] in GROUND else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module of this package that a file imports, with its line; for packages, the modules meant."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("meshcache"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meshcache"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in KNOWN else str(node.module), node.lineno


KNOWN = {module_of(path) for path in [*MODULES, *PACKAGE.rglob("*.pyi")]}


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(module_of(path))], ids=names)
def test_rooms_use_only_the_rooms_below_them(path: Path) -> None:
    module = module_of(path)
    room = room_of(module)
    for other, line in modules_imported(path):
        theirs = room_of(other)
        allowed = theirs in {"ground", room, *MAY_USE.get(room, ())} if room != "ground" else theirs == "ground"
        assert allowed or (module, other) in EXCEPTIONS, f"{path}:{line}: {room} imports {other}"


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(module_of(path)) in PURE], ids=names)
def test_pure_rooms_touch_no_socket_thread_or_process(path: Path) -> None:
    banned = BANNED_IN_CORE if room_of(module_of(path)) in {"protocol", "core"} else IMPURE_MODULES
    for module, line in imports(tree_of(path)):
        assert module.partition(".")[0] not in banned, f"{path}:{line} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {module_of(path): [other for other, _ in modules_imported(path)] for path in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in edges.get(module, ()):
                visit(other, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def core_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield everything that could make two runs of one seed differ, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"hash", "id", "print"}:
            yield node.lineno, f"calls {node.func.id}()"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "random"
            and node.attr not in RANDOM_ALLOWED
        ):
            yield node.lineno, f"uses random.{node.attr}"
        for iterable in _iterated(node):
            if isinstance(iterable, ast.Set | ast.SetComp) or (
                isinstance(iterable, ast.Call)
                and isinstance(iterable.func, ast.Name)
                and iterable.func.id in {"set", "frozenset"}
            ):
                yield iterable.lineno, "iterates a set"


def _iterated(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.For):
        return [node.iter]
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return [generator.iter for generator in node.generators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"list", "tuple", "iter"}:
        return node.args
    return []


@pytest.mark.parametrize("path", CORE, ids=names)
def test_core_is_deterministic(path: Path) -> None:
    assert list(core_faults(tree_of(path))) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("for x in {1, 2}: pass", "iterates a set"),
        ("[x for x in set(y)]", "iterates a set"),
        ("list(frozenset(y))", "iterates a set"),
        ("hash(x)", "calls hash()"),
        ("random.choice(x)", "uses random.choice"),
    ],
)
def test_the_look_at_core_finds_what_it_looks_for(text: str, fault: str) -> None:
    assert [found for _, found in core_faults(ast.parse(text))] == [fault]


def assigned(node: ast.AST) -> list[ast.expr]:
    """Return the targets of a statement's assignments, one by one."""
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.comprehension):
        targets = [node.target]
    elif isinstance(node, ast.withitem):
        targets = [node.optional_vars] if node.optional_vars is not None else []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
        return [ast.Attribute(node.args[0], ast.unparse(node.args[1]), ast.Store(), lineno=node.lineno)]
    else:
        return []
    return [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]


def declared(tree: ast.Module) -> dict[str, set[str]]:
    """By class of a module, the attributes that it declares: in its body, or on ``self``."""
    found: dict[str, set[str]] = {}
    for kind in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        targets = [target for node in ast.walk(kind) for target in assigned(node)]
        found[kind.name] = {node.target.id for node in kind.body if _is_field(node)}  # type: ignore[attr-defined]
        found[kind.name] |= {target.attr for target in targets if isinstance(target, ast.Attribute) and _is_own(target)}
    return found


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _is_own(target: ast.Attribute) -> bool:
    return isinstance(target.value, ast.Name) and target.value.id in {"self", "cls"}


def finished_by_others(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every assignment to an attribute of another object than the one that makes it.

    An object is complete when it is made, and changes only by its own methods: else its state depends on which other
    code has run. Two kinds of objects may be changed from outside. First, records that a module keeps for itself, in
    classes of its own. The text does not show the class of an object; so it counts as one of these if another class of
    the module than the assigning one declares the attribute. Second, counters, which any code may raise.
    """
    fields = declared(tree)
    scopes = [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
    outside = [node for node in tree.body if not isinstance(node, ast.ClassDef)]
    for name, scope in [*scopes, *[("", node) for node in outside]]:
        theirs = set().union(*[attributes for kind, attributes in fields.items() if kind != name])
        for node in ast.walk(scope):
            for target in assigned(node):
                if not isinstance(target, ast.Attribute) or _is_own(target) or target.attr in theirs:
                    continue
                of = ast.unparse(target.value)
                if not (isinstance(node, ast.AugAssign) and re.search(r"(^|[._])counters$", of)):
                    yield target.lineno, f"{of}.{target.attr}"


@pytest.mark.parametrize("path", CORE, ids=names)
def test_no_object_of_the_core_is_finished_by_another(path: Path) -> None:
    assert list(finished_by_others(tree_of(path))) == []


NODE_OF_TWO = """
class Node:
    def __init__(self, peers):
        self.peers = peers
        self.now = 0.0
        {}

class Link:
    up: bool = False
    def __init__(self):
        self.boot = 0
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("peers.owner = self", ["peers.owner"]),
        ("self.peers.owner = self", ["self.peers.owner"]),
        ("self.peers.owner, self.now = self, 1.0", ["self.peers.owner"]),
        ("peers.count += 1", ["peers.count"]),
        ("peers.owner: Node = self", ["peers.owner"]),
        ("setattr(peers, 'owner', self)", ["peers.'owner'"]),
        ("for peers.owner in peers: pass", ["peers.owner"]),
        ("peers.now = 1.0", ["peers.now"]),
        ("self.counters.late = 1", ["self.counters.late"]),
        ("self.counters.late += 1", []),
        ("link.up = link.boot = 1", []),
        ("self.now += 1.0", []),
    ],
)
def test_the_look_at_who_finishes_whom_finds_what_it_looks_for(text: str, found: list[str]) -> None:
    assert [name for _, name in finished_by_others(ast.parse(NODE_OF_TWO.format(text)))] == found


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_functions_fit_a_screen_and_files_are_no_heaps(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES_MAX
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=names)
def test_nothing_is_left_over(path: Path) -> None:
    text = path.read_text()
    left = re.search(r"\b(TODO|FIXME|XXX|HACK|breakpoint\(\)|pdb\.set_trace)", text)  # tidy: the words themselves
    assert left is None, left


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_only_the_command_line_prints(path: Path) -> None:
    if module_of(path).startswith(("meshcache.cli", "meshcache.__main__", "meshcache.local")):
        return
    calls = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_classes_are_named_after_what_they_are(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef):
            assert not re.search(r"(Manager|Handler|Util|Utils|Helper|Base)$", node.name), node.name
