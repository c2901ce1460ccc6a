"""README.md is true: its examples run, what it shows is what comes out, and what it names is there.

In a Python block ``expression   # -> value`` says what an expression comes to, ``# raises Error`` that it raises.
Blocks of one section share their names. In a console block the lines after ``$ command`` are its output. Addresses from
127.0.0.1:7101 on stand for those of a mesh that the tests start; times, versions and digests differ every time.
"""

from __future__ import annotations

import ast
import configparser
import json
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

import meshcache
from meshcache import AsyncClient, Client, LocalMesh
from meshcache.cli import main as cli
from meshcache.config import Config
from meshcache.core.storage.store import entry_bytes
from meshcache.local.processes import HOST, find_base_port

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE_LANGUAGES: Final = ("py", "mermaid")
"""Of meshcache/patterns/GUIDE.md; tests/process/test_guide.py looks at them."""
BIN: Final = Path(sys.executable).parent
NODES: Final = 3


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    line: int
    section: str


def blocks(*languages: str, document: str = README) -> list[Block]:
    found = []
    section = ""
    lines = iter(enumerate(document.splitlines(), start=1))
    for number, line in lines:
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("```"):
            body = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            found.append(Block(line[3:], "\n".join(body) + "\n", number, section))
    checked_here = {"python", "console", "sh", "toml", "ini", *GUIDE_LANGUAGES}
    assert {block.language for block in found} <= checked_here, "a block nobody checks"
    return [block for block in found if block.language in languages]


def sections(language: str) -> list[Any]:
    names = dict.fromkeys(block.section for block in blocks(language))
    return [
        pytest.param([block for block in blocks(language) if block.section == name], id=name.replace(" ", "-"))
        for name in names
    ]


def tables(heading: str) -> list[list[str]]:
    """Return the rows of the tables that have this first heading."""
    rows: list[list[str]] = []
    inside = False
    for line in README.splitlines():
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


PROSE: Final = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)


# ---- examples in Python


@pytest.fixture
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=NODES, cluster={"name": "local"}) as mesh:
        yield mesh


@pytest.fixture
def addresses(mesh: LocalMesh) -> dict[str, str]:
    """What the addresses in README.md stand for."""
    real = dict(zip([f"{HOST}:{7101 + index}" for index in range(NODES)], mesh.addresses, strict=True))
    return real | {f"{HOST}:7104": f"{HOST}:{find_base_port(1)}"}


def substituted(text: str, addresses: Mapping[str, str]) -> str:
    return re.sub(r"127\.0\.0\.1:71\d\d", lambda match: addresses.get(match[0], f"{HOST}:1"), text)


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
    assert value == expected, f"is {value!r}, and README.md shows {claim}"
    assert type(value) is type(expected), f"is {value!r}, and README.md shows {claim}"


def raised(call: Any, claim: str) -> None:
    with pytest.raises(Exception) as caught:
        call()
    kinds = {kind.__name__ for kind in type(caught.value).__mro__}
    assert claim in kinds, f"raises {caught.value!r}, and README.md says {claim}"


def checked(block: Block, addresses: Mapping[str, str]) -> tuple[CodeType, int]:
    """Compile a block, with line numbers that are those of README.md."""
    text = substituted(block.text, addresses)
    claims = Claims(text)
    tree = ast.fix_missing_locations(claims.visit(ast.parse(text)))
    arrows = [comment for comment in claims.comments.values() if comment.startswith(("->", "raises"))]
    assert claims.claims == len(arrows), f"line {block.line}: a claim that is not beside a whole expression"
    return compile(ast.increment_lineno(tree, block.line), str(ROOT / "README.md"), "exec"), claims.claims


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
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 + 1  # -> 3\n", "is 2, and README.md shows 3"),
        ("[1].copy()  # -> (1,)\n", "README.md shows"),
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
    """Put the same in the place of whatever is different each time; how columns are padded then tells nothing."""
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
def test_commands_print_what_is_shown(examples: list[Block], addresses: dict[str, str]) -> None:
    environment = dict(os.environ, MESHCACHE_SEEDS=addresses[f"{HOST}:7101"], PATH=f"{BIN}:{os.environ['PATH']}")
    for block in examples:
        for command, expected in console(block):
            done = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            actual = without_chance(done.stdout, addresses)
            assert actual == without_chance("\n".join(expected), addresses), command


@pytest.mark.process
def test_what_is_to_be_watched_is_told(mesh: LocalMesh) -> None:
    client = mesh.client()
    assert all("synced" in member for member in client.inspect("status")["members"])
    assert '"synced": true' in README
    counted = client.inspect("stats")
    for cell, *_ in tables("Counter"):
        for name in code_spans(cell):
            part, _, counter = name.partition(".")
            assert counter in counted[part], name


def test_commands_that_are_not_run_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    understood = 0
    lines = [line for block in blocks("sh") for line in block.text.splitlines()]
    lines += [match.partition("=")[2] for match in re.findall(r"^ExecStart=.*$", README, flags=re.MULTILINE)]
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
            options = cli._parser().parse_args(words[1:])
            config = getattr(options, "config", None)
            if config is not None and not config.startswith("/etc"):
                seed = [f"node.seeds={','.join(options.seed)}"] if options.seed else []
                Config.load(config, environ={}, overrides=[*options.set, f"node.listen={options.listen}", *seed])
        understood += 1
    assert understood > 5


# ---- what is named


def anchors() -> set[str]:
    return {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PROSE.splitlines()
        if line.startswith("#")
    }


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PROSE)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors(), link
        elif "://" not in link:
            assert (ROOT / unquote(link)).exists(), link


def test_files_that_are_named_exist() -> None:
    words = set(re.findall(r"(?<![\w./-])(?:\./)?((?:scripts|configs|meshcache|tests)/[\w./-]*[\w/])", README))
    assert {"scripts/run", "configs/lan.toml", "meshcache/core/operations/reads.py"} <= words
    missing = sorted(word for word in words if not (ROOT / word).exists())
    assert not missing


def test_scripts_can_be_executed() -> None:
    for name in sorted(set(re.findall(r"\./(scripts/\w+)", README))):
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
    for number, block in enumerate(blocks("toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text)
        assert Config.load(file, environ={}) != Config()
    for block in blocks("ini"):
        configparser.ConfigParser(interpolation=None).read_string(block.text)


def test_the_operations_for_newcomers_exist() -> None:
    for _, _, ours, _ in tables("redis-py"):
        for name in re.findall(r"\b([A-Za-z_]+)(?=[(`])", ours.replace("`ttl=1.5`", "")):
            found = hasattr(meshcache, name) or (hasattr(Client, name) and hasattr(AsyncClient, name))
            assert found, f"{name} in {ours}"


def test_what_an_entry_is_charged_is_as_shown() -> None:
    charged = entry_bytes(bytes(16), bytes(24 + 100))
    assert f"a 16-byte key with a 100-byte value is\ncharged {charged} bytes" in README
    held = settings()["store.max_bytes"] / charged
    assert "100 MB hold about 300,000" in README
    assert 290_000 < held < 310_000


def test_nothing_is_promised_that_is_not_there() -> None:
    """Whoever adds one of these has something to tell in README.md."""
    for name in ("pipeline",):
        assert not hasattr(Client, name), f"{name} is there: take it out of 'Not yet'"
        assert not re.search(rf"\.{name}\(", README)


# ---- figures


def figures(name: str) -> str:
    match = re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", README, flags=re.DOTALL)
    assert match, name
    return match[1]


def test_every_figure_names_its_command() -> None:
    marked = re.findall(r"<!-- (\w+) -->", README)
    assert sorted(marked) == sorted(refresh_readme.SECTIONS)
    for name, section in refresh_readme.SECTIONS.items():
        first = figures(name).strip().splitlines()[0]
        match = re.fullmatch(r"Measured by `([^`]+)`:", first)
        assert match, first
        assert match[1].split() == section.command
        assert (ROOT / section.command[0]).exists()
        assert "| --- |" in figures(name)


def test_figures_are_put_between_their_markers() -> None:
    replaced = refresh_readme.replaced
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nleft\n<!-- /y -->\n"
    once = replaced(text, "x", r"new \1")
    assert once == "a\n<!-- x -->\n\nnew \\1\n\n<!-- /x -->\nb\n<!-- y -->\nleft\n<!-- /y -->\n"
    assert replaced(once, "x", r"new \1") == once
    with pytest.raises(ValueError, match="one section"):
        replaced(text, "z", "new")


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
