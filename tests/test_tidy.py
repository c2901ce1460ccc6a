"""Properties of the code itself, which no other test would notice."""

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

BELOW_CORE = {"meshcache.errors", "meshcache.config", "meshcache.address", "meshcache.durations"}
PURE = (
    "core", "session", "delivery", "link", "filling", "routing", "breaker", "arguments", "codec", "copies", "following",
    "forms", "options", "plain", "subscription", "survey", "simulation",
)  # fmt: skip
"""Modules and packages that must not touch sockets, threads or processes."""

IMPURE_MODULES = {"socket", "zmq", "threading", "asyncio", "subprocess", "select", "selectors", "multiprocessing"}
BANNED_IN_CORE = IMPURE_MODULES | {"time", "datetime", "os", "secrets", "uuid", "logging", "structlog"}
RANDOM_ALLOWED = {"Random"}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module imported, as far as the text tells, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield (f"meshcache.{alias.name}" if node.module == "meshcache" else node.module), node.lineno


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 20
    assert len(CORE) > 10


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert dir(meshcache) == sorted(["__version__", *meshcache.__all__])
    for name in dir(meshcache):
        assert getattr(meshcache, name) is not None


@pytest.mark.parametrize("path", CORE, ids=names)
def test_core_imports_nothing_from_above_and_nothing_that_acts(path: Path) -> None:
    for module, line in imports(tree_of(path)):
        top = module.partition(".")[0]
        assert top not in BANNED_IN_CORE, f"{path}:{line} imports {module}"
        if top == "meshcache":
            assert module in BELOW_CORE or module.startswith("meshcache.core"), f"{path}:{line} imports {module}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem in {"errors", "config", "address", "durations"}], ids=names
)
def test_the_lowest_layer_imports_itself_only(path: Path) -> None:
    for module, line in imports(tree_of(path)):
        assert not module.startswith("meshcache") or module in BELOW_CORE, f"{path}:{line} imports {module}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in PURE], ids=names
)
def test_what_is_simulated_needs_no_socket_thread_or_process(path: Path) -> None:
    for module, line in imports(tree_of(path)):
        if (path.stem, module) != ("session", "time"):
            assert module.partition(".")[0] not in IMPURE_MODULES, f"{path}:{line} imports {module}"


def core_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What would make two runs of one seed differ."""
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
    if path.stem in {"cli", "commands", "mesh_commands", "report", "supervisor", "load", "__main__", "launcher"}:
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
