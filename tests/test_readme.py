"""README.md and its chapters are true: examples run, what they show is what comes out, and what they name is there.

In a Python block ``expression   # -> value`` says what the value of an expression is, ``# raises Error`` that it
raises. Blocks of one section share their names; in a chapter of SHARES_NAMES, all blocks do. In a console block the
lines after ``$ command`` are its output. Addresses from 127.0.0.1:7101 on stand for those of a mesh that the tests
start; times, versions and digests differ every time.
"""

from __future__ import annotations

import ast
import configparser
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from types import CodeType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import pytest
from benchmark import refresh_readme
from test_tidy import GROUND, MAY_USE

import meshcache
from meshcache import AsyncClient, Client, LocalMesh, errors
from meshcache.cli import main as cli
from meshcache.cli.parser import make_parser
from meshcache.config import Config
from meshcache.core.membership import newcomers
from meshcache.core.operations import admission, fill_leases, reply_room
from meshcache.core.operations.portions import PORTION_KEYS
from meshcache.core.storage.charges import NATIVE, PYTHON, Charges
from meshcache.keys import RIGHTS, read_allowed_keys
from meshcache.local.processes import HOST, find_base_port
from meshcache.node import connections, intake, journal, memory
from meshcache.protocol import clock
from meshcache.protocol import messages as m

ROOT: Final = Path(__file__).resolve().parent.parent
GUIDE_LANGUAGES: Final = ("py", "mermaid")
"""The languages of blocks in meshcache/patterns/GUIDE.md that tests/process/test_guide.py checks."""
BIN: Final = Path(sys.executable).parent
NODES: Final = 3


class Document(NamedTuple):
    """README.md, or a chapter of it."""

    name: str
    text: str
    prose: str
    """The text outside of fenced blocks."""

    def linked(self, link: str) -> Path:
        """Return the file to which a link without an anchor leads."""
        return (ROOT / self.name).parent / unquote(link) if link else ROOT / self.name


def document(name: str) -> Document:
    text = (ROOT / name).read_text(encoding="utf-8")
    return Document(name, text, re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


README: Final = document("README.md")
CLIENT: Final = document("meshcache/client/GUIDE.md")
NODE: Final = document("meshcache/node/GUIDE.md")
CORE: Final = document("meshcache/core/GUIDE.md")
FIGURES: Final = document("scripts/benchmark/GUIDE.md")
PATTERNS: Final = document("meshcache/patterns/GUIDE.md")
"""Its blocks are run by tests/process/test_guide.py."""
GATEWAY: Final = document("meshcache/gateway/GUIDE.md")
"""Its examples are run by tests/process/test_gateway.py."""
INTEGRATIONS: Final = document("meshcache/integrations/GUIDE.md")
"""Its examples are run by tests/integrations/test_integrations_guide.py, and those for clients of memcached by
tests/memcached/test_clients_guide.py."""
MEMCACHED: Final = document("meshcache/node/memcached/GUIDE.md")
DEPLOY: Final = document("configs/deploy/GUIDE.md")
RUN_HERE: Final = (README, CLIENT, NODE, MEMCACHED, DEPLOY, CORE, FIGURES)
DOCUMENTS: Final = (*RUN_HERE, PATTERNS, GATEWAY, INTEGRATIONS)
PROSE: Final = "\n".join(each.prose for each in RUN_HERE)
SHARES_NAMES: Final = (CLIENT,)
"""Chapters whose Python blocks share their names from the first to the last."""


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    line: int
    section: str
    name: str = "README.md"
    """The name of its document."""


def blocks(*languages: str, document: Document) -> list[Block]:
    found = []
    section = ""
    lines = iter(enumerate(document.text.splitlines(), start=1))
    for number, line in lines:
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("```"):
            body = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            found.append(Block(line[3:], "\n".join(body) + "\n", number, section, document.name))
    checked_here = {"python", "console", "sh", "toml", "ini", "pub", *GUIDE_LANGUAGES}
    assert {block.language for block in found} <= checked_here, "a block nobody checks"
    return [block for block in found if block.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    return [block for each in RUN_HERE for block in blocks(*languages, document=each)]


def sections(language: str) -> list[Any]:
    whole = [each.name for each in SHARES_NAMES] if language == "python" else []
    found: dict[str, list[Block]] = {}
    for block in all_blocks(language):
        found.setdefault(block.name if block.name in whole else f"{block.name} {block.section}", []).append(block)
    return [pytest.param(group, id=name.replace(" ", "-")) for name, group in found.items()]


def tables(heading: str, *documents: Document) -> list[list[str]]:
    """Return the rows of the tables that have this first heading."""
    text = "\n".join(document.text for document in documents or RUN_HERE)
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif inside and not set(cells[0]) <= {"-", ":"}:
            rows.append(cells)
        elif cells[0] == heading:
            inside = True
    assert rows, f"no table of {heading}"
    return rows


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


# ---- examples in Python


@pytest.fixture
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=NODES, cluster={"name": "local"}, memcached={"listen": f"{HOST}:11211"}) as mesh:
        yield mesh


@pytest.fixture
def addresses(mesh: LocalMesh) -> dict[str, str]:
    """Return the addresses for which the documents' addresses stand."""
    real = dict(zip([f"{HOST}:{7101 + index}" for index in range(NODES)], mesh.addresses, strict=True))
    real |= {f"{HOST}:{11211 + index}": door for index, door in enumerate(mesh.memcached_addresses)}
    return real | {f"{HOST}:7104": f"{HOST}:{find_base_port(1)}"}


def substituted(text: str, addresses: Mapping[str, str]) -> str:
    return re.sub(r"127\.0\.0\.1:(?:71\d\d|112\d\d)", lambda match: addresses.get(match[0], f"{HOST}:1"), text)


def comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    return {token.start[0]: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}


class Claims(ast.NodeTransformer):
    """Turns each expression with a claim beside it into a call that checks the claim."""

    def __init__(self, text: str) -> None:
        self.comments = comments(text)
        self.claims = 0

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        comment = self.comments.get(node.end_lineno or 0, "")
        for sign, call in (("-> ", "_shown({value}, {claim!r})"), ("raises ", "_raised(lambda: {value}, {claim!r})")):
            if comment.startswith(sign):
                self.claims += 1
                source = call.format(value=ast.unparse(node.value), claim=comment.removeprefix(sign))
                statement = ast.parse(source).body[0]
                for part in ast.walk(statement):
                    ast.copy_location(part, node)
                return statement
        return node


def shown(value: Any, claim: str) -> None:
    expected = eval(claim, {"inf": math.inf, "meshcache": meshcache})
    assert value == expected, f"is {value!r}, and the text shows {claim}"
    assert type(value) is type(expected), f"is {value!r}, and the text shows {claim}"


def raised(call: Any, claim: str) -> None:
    with pytest.raises(Exception) as caught:
        call()
    kinds = {kind.__name__ for kind in type(caught.value).__mro__}
    assert claim in kinds, f"raises {caught.value!r}, and the text says {claim}"


def checked(block: Block, addresses: Mapping[str, str]) -> tuple[CodeType, int]:
    """Compile a block, with line numbers that are those of its document."""
    text = substituted(block.text, addresses)
    claims = Claims(text)
    tree = ast.fix_missing_locations(claims.visit(ast.parse(text)))
    arrows = [comment for comment in claims.comments.values() if comment.startswith(("->", "raises"))]
    assert claims.claims == len(arrows), f"line {block.line}: a claim that is not beside a whole expression"
    return compile(ast.increment_lineno(tree, block.line), str(ROOT / block.name), "exec"), claims.claims


@pytest.mark.process
@pytest.mark.parametrize("examples", sections("python"))
def test_python_examples_do_what_they_say(
    examples: list[Block], addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHCACHE_SEEDS", addresses[f"{HOST}:7101"])
    names: dict[str, Any] = {"__name__": "readme", "_shown": shown, "_raised": raised}
    claims = 0
    for block in examples:
        if "def test_" in block.text:
            file = tmp_path / "test_example.py"
            file.write_text(block.text)
            run_pytest(file)
            claims += 1
        else:
            code, count = checked(block, addresses)
            exec(code, names)
            claims += count
    assert claims, "an example that shows nothing"


def run_pytest(file: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(file)]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 + 1  # -> 3\n", "is 2, and the text shows 3"),
        ("[1].copy()  # -> (1,)\n", "the text shows"),
        ("int('x')  # raises KeyError\n", "raises ValueError"),
        ("x = 1  # -> 1\n", "not beside a whole expression"),
    ],
)
def test_a_wrong_example_is_noticed(text: str, error: str) -> None:
    names = {"_shown": shown, "_raised": raised}
    with pytest.raises(AssertionError, match=re.escape(error)):
        exec(checked(Block("python", text, 1, ""), {})[0], names)


def test_an_example_that_should_raise_and_does_not_is_noticed() -> None:
    code, _ = checked(Block("python", "int('1')  # raises ValueError\n", 1, ""), {})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        exec(code, {"_raised": raised})


# ---- examples of the command line


def console(block: Block) -> list[tuple[str, list[str]]]:
    """Return the commands of a block with their output."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def without_chance(text: str, addresses: Mapping[str, str]) -> list[str]:
    """Replace everything that is different each time by fixed text, and the padding of columns by one space."""
    text = substituted(text, addresses)
    for pattern, instead in (
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME"),
        (r"(\d+s|-)(?=\s+[0-9a-f]{16}\s)", "AGE"),
        (r"\b[0-9a-f]{16}\b", "HEX"),
        (r"\b5\d\.\d+\b", "50-AND-SOME"),
        (rf"\b(db1|{re.escape(platform.node() or 'localhost')})\b(?=\s+-\s+1\.00)", "HOST"),
        (r"[ \t]+", " "),
        (r" $", ""),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.splitlines()


@pytest.mark.process
@pytest.mark.parametrize("examples", sections("console"))
def test_commands_print_what_is_shown(examples: list[Block], addresses: dict[str, str], tmp_path: Path) -> None:
    environment = dict(os.environ, MESHCACHE_SEEDS=addresses[f"{HOST}:7101"], PATH=f"{BIN}:{os.environ['PATH']}")
    for block in examples:
        for command, expected in console(block):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            actual = without_chance(done.stdout, addresses)
            assert actual == without_chance("\n".join(expected), addresses), command


@pytest.mark.process
def test_what_is_to_be_watched_is_told(mesh: LocalMesh) -> None:
    client = mesh.client()
    assert all("synced" in member for member in client.inspect("status")["members"])
    assert '"synced": true' in NODE.text
    with LocalMesh(1, snapshot={"enabled": True}, memcached={"listen": f"{HOST}:11251"}) as one, one.client() as other:
        counted = other.inspect("stats")
    for cell, *_ in tables("Counter"):
        for name in code_spans(cell):
            part, _, counter = name.partition(".")
            assert counter in counted[part], name


def test_commands_that_are_not_run_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    understood = 0
    shell = [*all_blocks("sh"), *blocks("sh", document=GATEWAY)]
    lines = [line for block in shell for line in block.text.splitlines()]
    lines += [match.partition("=")[2] for match in re.findall(r"^ExecStart=.*$", NODE.text, flags=re.MULTILINE)]
    lines += [span for span in code_spans(PROSE) if span.startswith("meshcache ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        if Path(words[0]).name != "meshcache":
            continue
        named_only = len(words) == 2 and line in code_spans(PROSE)
        if words[-1] == "--help" or named_only:
            with pytest.raises(SystemExit) as end:
                cli.main([*words[1:], "--help"])
            assert end.value.code == 0
        else:
            options = make_parser().parse_args(words[1:])
            config = getattr(options, "config", None)
            if config is not None and not config.startswith("/etc"):
                seed = [f"node.seeds={','.join(options.seed)}"] if options.seed else []
                Config.load(config, environ={}, overrides=[*options.set, f"node.listen={options.listen}", *seed])
        understood += 1
    assert understood > 5


# ---- what is named


def anchors(prose: str) -> set[str]:
    return {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in prose.splitlines()
        if line.startswith("#")
    }


def broken_links(of: Document) -> list[str]:
    prose = {ROOT / each.name: each.prose for each in DOCUMENTS}
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", of.prose):
        file, _, anchor = link.partition("#")
        path = of.linked(file).resolve()
        if "://" not in link and not (path.exists() and (not anchor or anchor in anchors(prose.get(path, "")))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("of", DOCUMENTS, ids=lambda each: each.name)
def test_links_lead_somewhere(of: Document) -> None:
    assert "](" in of.prose
    assert broken_links(of) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](GUIDE.md) [b](#y) [c](../../README.md#start) [d](../no.md) [e](../node/GUIDE.md#no) [f](https://x.org)"
    assert broken_links(Document("meshcache/client/GUIDE.md", text, text)) == ["#y", "../no.md", "../node/GUIDE.md#no"]


def test_every_chapter_is_linked_and_leads_back() -> None:
    for chapter in DOCUMENTS[1:]:
        assert f"]({chapter.name})" in README.prose
    assert {each.name for each in DOCUMENTS[1:]} == {
        str(path.relative_to(ROOT))
        for top in ("meshcache", "scripts", "configs")
        for path in (ROOT / top).rglob("GUIDE.md")
    }


@pytest.mark.parametrize("of", DOCUMENTS, ids=lambda each: each.name)
def test_files_that_are_named_exist(of: Document) -> None:
    words = set(re.findall(r"(?<![\w./-])(?:\./)?((?:scripts|configs|meshcache|tests)/[\w./-]*[\w/])", of.text))
    missing = sorted(word for word in words if not (ROOT / word).exists())
    assert not missing
    if of is README:
        assert {"scripts/run", "meshcache/core/GUIDE.md"} <= words
    if of is CORE:
        assert "meshcache/core/operations/reads.py" in words


def test_scripts_can_be_executed() -> None:
    found = {name for each in DOCUMENTS for name in re.findall(r"(?:^|[ `])(?:\./)?(scripts/\w+)(?=[` \n])", each.text)}
    assert {"scripts/run", "scripts/chaos"} <= found
    for name in sorted(found):
        assert os.access(ROOT / name, os.X_OK), name


def settings() -> dict[str, Any]:
    config = Config()
    return {
        f"{table}.{key}": getattr(getattr(config, table), key)
        for table in Config.__dataclass_fields__
        for key in getattr(config, table).__dataclass_fields__
    }


def test_settings_exist_and_have_the_defaults_that_are_shown() -> None:
    known = settings()
    for name, default, _ in tables("Setting"):
        (path,) = code_spans(name)
        (text,) = code_spans(default)
        expected = {"true": True, "false": False}[text] if text in {"true", "false"} else ast.literal_eval(text)
        assert known[path] == (tuple(expected) if isinstance(expected, list) else expected), path
    table_names = "|".join(Config.__dataclass_fields__)
    for span in code_spans(PROSE):
        match = re.fullmatch(rf"((?:{table_names})\.[a-z_]+)(=.*)?", span)
        if match and match[1] not in {name for cell, *_ in tables("Counter") for name in code_spans(cell)}:
            assert match[1] in known, span


def test_overrides_and_variables_that_are_shown_are_accepted() -> None:
    overrides = [span.removeprefix("--set ") for span in code_spans(PROSE) if span.startswith("--set ")]
    variables = dict(span.split("=") for span in code_spans(PROSE) if re.fullmatch(r"MESHCACHE_\w+=\S+", span))
    assert overrides
    assert variables
    config = Config.load(environ=variables)
    assert config == Config.load(environ={}, overrides=overrides)
    assert config != Config()


def test_the_configuration_that_is_shown_is_accepted(tmp_path: Path) -> None:
    for number, block in enumerate(all_blocks("toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text)
        assert Config.load(file, environ={}) != Config()
    for block in all_blocks("ini"):
        configparser.ConfigParser(interpolation=None).read_string(block.text)


def test_the_allowed_keys_that_are_shown_are_accepted(tmp_path: Path) -> None:
    (block,) = all_blocks("pub")
    (tmp_path / "shown.pub").write_text(block.text)
    allowed = read_allowed_keys(tmp_path)
    assert not allowed.problems
    assert [key.kind for key in allowed.keys.values()] == ["node", "client"]


def test_the_rights_are_those_that_there_are() -> None:
    assert [code_spans(right)[0] for right, _ in tables("Right") if "`" in right] == list(RIGHTS)


def test_the_operations_for_newcomers_exist() -> None:
    for _, _, ours, _ in tables("redis-py"):
        for name in re.findall(r"\b([A-Za-z_]+)(?=[(`])", ours.replace("`ttl=1.5`", "")):
            found = hasattr(meshcache, name) or (hasattr(Client, name) and hasattr(AsyncClient, name))
            assert found, f"{name} in {ours}"


@pytest.mark.parametrize(
    ("charges", "shown", "count"),
    [
        (NATIVE, "a 16-byte key with a 100-byte value is charged {0} bytes, and 100 MB hold about {1:,}", 460_000),
        (PYTHON, "in pure Python {0} bytes, about {1:,}", 300_000),
    ],
)
def test_what_an_entry_is_charged_is_as_shown(charges: Charges, shown: str, count: int) -> None:
    charged = charges.entry_bytes(bytes(16), bytes(24 + 100))
    assert shown.format(charged, count) in " ".join(NODE.text.split())
    assert settings()["store.max_bytes"] / charged == pytest.approx(count, rel=0.03)


def test_nothing_is_promised_that_is_not_there() -> None:
    """A new name of the package must be described in README.md."""
    for name in ("pipeline",):
        assert not hasattr(Client, name), f"{name} is there: take it out of 'Not yet'"
        assert not any(re.search(rf"\.{name}\(", each.text) for each in DOCUMENTS)


def test_the_errors_are_those_that_there_are() -> None:
    """The table names each error with the builtin that it also is; the text names their common bases."""
    tree = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    del tree["MeshcacheError"], tree["OperationError"], tree["Any"]
    told = {code_spans(name)[0]: code_spans(builtin) for name, builtin, _ in tables("Error")}
    assert list(told) == sorted(told, key=lambda name: not issubclass(tree[name], errors.OperationError))
    assert sum(not issubclass(tree[name], errors.OperationError) for name in told) == 4
    assert told.keys() == tree.keys()
    for name, builtins_told in told.items():
        kinds = [kind.__name__ for kind in tree[name].__mro__ if kind.__module__ == "builtins"]
        assert builtins_told == kinds[: kinds.index("Exception")][: len(builtins_told)], name
        assert bool(builtins_told) == (kinds[0] != "Exception"), name


def events_noted() -> set[str]:
    """Every event that the code of a node notes, by name."""
    found = set()
    for room in ("core", "node", "web"):
        for path in (ROOT / "meshcache" / room).rglob("*.py"):
            for call in [each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Call)]:
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                first = call.args[0] if call.args else None
                if name in {"note", "_note", "tell", "_tell", "exception"} and isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_the_events_are_those_that_nodes_log() -> None:
    told = {code_spans(name)[0]: level for name, level, _ in tables("Event")}
    assert list(told) == sorted(told)
    assert told == {event: logging.getLevelName(level).lower() for event, level in journal.LEVELS.items()}
    assert told.keys() == events_noted()


def test_what_is_bounded_is_bounded_at_that() -> None:
    told = {what: bound for what, bound, _ in tables("What is bounded")}
    text = "; ".join(told.values())
    for bound in (
        f"{connections.OWED_BYTES_MAX >> 20} MiB",
        f"{connections.OWED_BYTES_TOTAL >> 20} MiB",
        f"{memory.EXCESS_BYTES_MAX >> 20} MiB",
        (
            f"; {reply_room.PRESSED_REPLY_BYTES >> 20} MiB while more than "
            f"{(connections.OWED_BYTES_TOTAL - reply_room.PRESSED_BYTES_LEFT) >> 20} MiB of the"
        ),
        f"as many as are served in {intake.WAIT_S * 1000:.0f} ms, {intake.WAITING_MIN} at least",
        f"{intake.WAITING_MAX:,} at most",
        f"{fill_leases.LEASES_MAX:,} of each",
        f"{admission.DEADLINE_S_MAX:.0f} s from",
        f"{clock.LEAD_MS_MAX // 1000} s",
    ):
        assert bound in text, bound
    assert told["subscriptions of one connection"] == str(intake.SUBSCRIPTIONS_MAX)
    assert told["newcomers that are dialled at a time"] == str(newcomers.TRIALS_MAX)
    assert fill_leases.LEASES_MAX == fill_leases.PARKED_MAX
    assert connections.OWED_BYTES_SMALL == 1 << 20
    assert connections.DEAF_S == 1.0
    batches = " ".join(NODE.prose.split())
    assert (
        f"more than {PORTION_KEYS[m.Update]} counts, {PORTION_KEYS[m.Set]} sets or {PORTION_KEYS[m.Get]:,} gets"
        in batches
    )


def test_the_house_is_as_it_is_built() -> None:
    told = {code_spans(name)[0] if "`" in name else name: used for name, _, used in tables("Room")}
    assert told.pop("cli") == "all"
    assert told.pop("ground") == "nothing else"
    assert {name: tuple(code_spans(used)) for name, used in told.items()} == MAY_USE
    (ground,) = [what for name, what, _ in tables("Room") if name == "ground"]
    assert tuple(code_spans(ground)) == GROUND
    packages = {path.parent.name for path in (ROOT / "meshcache").glob("*/__init__.py")} - set(GROUND)
    assert {name for name in told if "." not in name} | {"cli"} == packages
    folders = {code_spans(name)[0] for name, _ in tables("Folder")} - {"meshcache/core"}
    assert folders == {str(path.parent.relative_to(ROOT)) for path in (ROOT / "meshcache/core").glob("*/__init__.py")}


def test_one_word_means_one_thing() -> None:
    words = [word for word, _ in tables("Word")]
    assert words == sorted(set(words))


# ---- figures


def figures(name: str) -> str:
    match = re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", FIGURES.text, flags=re.DOTALL)
    assert match, name
    return match[1]


def test_every_figure_names_its_command() -> None:
    marked = re.findall(r"<!-- (\w+) -->", FIGURES.text)
    assert sorted(marked) == sorted(refresh_readme.SECTIONS)
    assert (ROOT / FIGURES.name, ROOT / README.name) == (refresh_readme.CHAPTER, refresh_readme.README)
    for name, section in refresh_readme.SECTIONS.items():
        first = figures(name).strip().splitlines()[0]
        match = re.fullmatch(r"Measured by `([^`]+)`:", first)
        assert match, first
        assert match[1].split()[: len(section.command)] == section.command
        assert (ROOT / section.command[0]).exists()
        assert "| --- |" in figures(name)


def test_the_figures_of_the_readme_are_those_of_the_chapter() -> None:
    assert re.findall(r"<!-- (\w+) -->", README.text) == ["short"]
    full = {what: [rate, *ratios] for what, rate, _, *ratios in tables("what", FIGURES)}
    short = {what: figures for what, *figures in tables("what", README)}
    assert short == {what: full[what] for what in refresh_readme.IN_README}


def test_the_figures_of_the_readme_are_made_of_the_same_measurement() -> None:
    titles = [*refresh_readme.IN_README, "another"]
    faster = {"first_is_times_as_fast": {"value": 0.5}}
    ours = {"median": {"keys_per_s": 4321.0, "p50_us": 200.0, "p99_us": 300.0}}
    rows = [{"title": each, "contestants": {"meshcache": ours, "redis": faster}} for each in titles]
    short = refresh_readme.short_text({"rows": rows}).splitlines()
    assert short[2] == f"| {titles[0]} | 4,321 | 0.50 | - | - |"
    assert len(short) == 2 + len(refresh_readme.IN_README)
    assert "another" not in short[-1]


def test_figures_are_put_between_their_markers() -> None:
    replaced = refresh_readme.replaced
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nleft\n<!-- /y -->\n"
    once = replaced(text, "x", r"new \1")
    assert once == "a\n<!-- x -->\n\nnew \\1\n\n<!-- /x -->\nb\n<!-- y -->\nleft\n<!-- /y -->\n"
    assert replaced(once, "x", r"new \1") == once
    with pytest.raises(ValueError, match="one section"):
        replaced(text, "z", "new")


def test_the_curve_is_made_of_what_was_measured() -> None:
    points = [
        {"title": "gets", "copies": copies, "nodes": nodes, "keys_per_node_cpu_s": 50_000.0, "efficiency": 1 / nodes}
        for copies in (1, 2)
        for nodes in (1, 2, 5)
    ]
    text = refresh_readme.scale_text({"cores": 2, "points": points, "rest": {"1": 0.004, "5": 0.05}})
    assert "| gets, N=2 | 50,000 | 0.50 | 0.20 |" in text
    assert "| 1 node | 2 nodes | 5 nodes |" in text
    assert text.endswith("Without any client, nodes use of one core: 0.4% of 1, 5.0% of 5.")


def test_figures_are_made_of_what_was_measured() -> None:
    evenness = [
        {"nodes": 3, "ring": ring, "primary_keys": [low, high]}
        for ring, low, high in (("meshcache", 0.97, 1.03), ("plain 150", 0.87, 1.26))
    ]
    movement = [
        {"nodes": 3, "ring": "meshcache", "primaries": [1.05, 1.1, 1.2], "build_ms": 6.8},
        {"nodes": 3, "ring": "plain 150", "primaries": [0.99, 1.1, 1.3]},
    ]
    measured = {"command": "scripts/bench ring", "result": {"evenness": evenness, "movement": movement}}
    text = refresh_readme.section_text("ring", json.loads(json.dumps(measured)))
    assert "Measured by `scripts/bench ring`:" in text
    assert "| 3 nodes, meshcache | 97 % to 103 % | 1.05 | 1.20 |" in text
    assert "| 3 nodes, plain 150 | 87 % to 126 % | 0.99 | 1.30 |" in text
