"""The command line: what it reads, what it prints, and how it exits. The mesh is a fake."""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest
from fake_client import FakeClient, member

from meshcache.cli import commands
from meshcache.cli import main as cli
from meshcache.cli.load import Outcome
from meshcache.cli.parser import make_parser
from meshcache.cli.report import event_text, status_text
from meshcache.client.subscription import Invalidation, InvalidationKind
from meshcache.errors import (
    ConfigError,
    KeyMissing,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationTimeout,
    QuorumNotReached,
)
from meshcache.local.terminal import Paint

PLAIN = Paint(enabled=False)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(commands, "open_client", lambda _: fake)
    return fake


def run(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, bytes, str]:
    exit_code = cli.main(arguments)
    out, err = capsysbinary.readouterr()
    return exit_code, out, err.decode()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("häl lo", "häl lo\n".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (5, b"5\n"),
        (None, b"null\n"),
        ({"a": [1, True]}, b'{"a": [1, true]}\n'),
        ((1, 2), b"[1, 2]\n"),
        ({1}, b"{1}\n"),
        (math.nan, b"nan\n"),
    ],
)
def test_get_prints_a_value(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], value: object, shown: bytes
) -> None:
    client.answers["gets"] = SimpleNamespace(value=value)
    assert run(capsysbinary, "get", "k") == (0, shown, "")


def test_get_as_json(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["gets"] = SimpleNamespace(value="v")
    assert json.loads(run(capsysbinary, "get", "k", "--json")[1]) == {"key": "k", "value": "v"}
    client.answers["gets"] = SimpleNamespace(value={"at": math.nan, (1,): 2})
    assert json.loads(run(capsysbinary, "get", "k", "--json")[1])["value"] == "{'at': nan, (1,): 2}"
    client.answers["gets"] = SimpleNamespace(value=b"\xff")
    assert json.loads(run(capsysbinary, "--json", "get", "k")[1]) == {"key": "k", "value_base64": "/w=="}


@pytest.mark.parametrize(
    ("arguments", "verb", "answer"),
    [
        (["get", "k"], "gets", None),
        (["get", "k", "--json"], "gets", None),
        (["delete", "k"], "delete_many", 0),
        (["add", "k", "v"], "add", False),
        (["touch", "k"], "touch", False),
        (["ttl", "k"], "ttl", None),
        (["incr", "k", "--must-exist"], "incr", KeyMissing("no such key")),
    ],
)
def test_a_miss_exits_1_with_nothing_on_stdout(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str], verb: str, answer: object
) -> None:
    client.answers[verb] = answer
    assert run(capsysbinary, *arguments) == (1, b"", "")


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["set", "k", "v"], ("set", ("k", "v"), {})),
        (["set", "k", "v", "--ttl", "0.5"], ("set", ("k", "v"), {"ttl": 0.5})),
        (["set", "k", "v", "--ttl", "never"], ("set", ("k", "v"), {"ttl": None})),
        (["set", "k", "v", "--ttl", "5m"], ("set", ("k", "v"), {"ttl": 300.0})),
        (["touch", "k", "--ttl", "1h30m"], ("touch", ("k",), {"ttl": 5400.0})),
        (["incr", "k", "--ttl", "250ms"], ("incr", ("k", 1), {"initial": 0, "ttl": 0.25})),
        (["set", "k", "5", "--as", "int"], ("set", ("k", 5), {})),
        (["set", "k", "[1]", "--as", "json"], ("set", ("k", [1]), {})),
        (["set", "\udcff", "v"], ("set", (b"\xff", "v"), {})),
        (["add", "k", "v"], ("add", ("k", "v"), {})),
        (["delete", "a", "b"], ("delete_many", (["a", "b"],), {})),
        (["incr", "k"], ("incr", ("k", 1), {"initial": 0})),
        (["incr", "k", "-3", "--initial", "9"], ("incr", ("k", -3), {"initial": 9})),
        (["touch", "k", "--ttl", "9"], ("touch", ("k",), {"ttl": 9.0})),
        (["invalidate", "a", "b"], ("invalidate", ("a", "b"), {})),
        (["invalidate", "--prefix", "u:"], ("invalidate_prefix", ("u:",), {})),
        (["invalidate", "--tag", "t", "--tag", "u"], ("invalidate_tags", ("t", "u"), {})),
        (["set", "k", "v", "--tag", "t", "--tag", "u"], ("set", ("k", "v"), {"tags": ["t", "u"]})),
        (["add", "k", "v", "--tag", "t"], ("add", ("k", "v"), {"tags": ["t"]})),
    ],
)
def test_what_is_asked_of_the_client(client: FakeClient, arguments: list[str], call: tuple[Any, ...]) -> None:
    client.answers |= {"add": True, "touch": True, "delete_many": 1, "incr": 6}
    assert cli.main(arguments) == 0
    assert client.calls == [call, ("close", (), {})]


def test_set_reads_standard_input_as_bytes(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00line\n")))
    assert cli.main(["set", "k", "-"]) == 0
    assert client.calls[0] == ("set", ("k", b"\x00line\n"), {})


def test_ttl_prints_seconds_or_never(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["ttl"] = 12.34567
    assert run(capsysbinary, "ttl", "k") == (0, b"12.346\n", "")
    client.answers["ttl"] = math.inf
    assert run(capsysbinary, "ttl", "k") == (0, b"never\n", "")
    assert json.loads(run(capsysbinary, "ttl", "k", "--json")[1]) == {"key": "k", "ttl_s": None}


def test_invalidate_takes_keys_a_prefix_or_tags(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for arguments in ([], ["a", "--prefix", "u:"], ["a", "--tag", "t"], ["--prefix", "u:", "--tag", "t"]):
        code, out, error = run(capsysbinary, "invalidate", *arguments)
        assert (code, out) == (2, b"")
        assert "--prefix" in error
    client.answers["invalidate_prefix"] = 6
    assert json.loads(run(capsysbinary, "invalidate", "--prefix", "u:", "--json")[1]) == {
        "prefix": "u:",
        "dropped_copies": 6,
    }
    client.answers["invalidate_tags"] = 7
    assert json.loads(run(capsysbinary, "invalidate", "--tag", "t", "--json")[1]) == {
        "tags": ["t"],
        "dropped_copies": 7,
    }


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["clear", "user:"], ("invalidate_prefix", ("user:",), {})),
        (["clear", "user:", "--yes"], ("invalidate_prefix", ("user:",), {})),
        (["clear", "--yes"], ("clear", (), {})),
        (["clear", "", "--yes"], ("clear", (), {})),
        (["clear", "\udcff"], ("invalidate_prefix", (b"\xff",), {})),
    ],
)
def test_clear_says_how_many_copies_went(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str], call: tuple[Any, ...]
) -> None:
    client.answers |= {"clear": 1234, "invalidate_prefix": 1234}
    assert run(capsysbinary, *arguments) == (0, b"1,234 copies went, on all nodes together\n", "")
    assert client.calls[0] == call
    told = json.loads(run(capsysbinary, *arguments, "--json")[1])
    assert told == {"prefix": arguments[1].replace("--yes", ""), "dropped_copies": 1234}


@pytest.mark.parametrize(("answer", "cleared"), [("y", True), ("YES", True), ("", False), ("n", False), ("all", False)])
def test_clear_asks_before_everything_goes(
    client: FakeClient,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    cleared: bool,
) -> None:
    client.answers["clear"] = 1
    terminal = SimpleNamespace(isatty=lambda: True, readline=lambda: answer + "\n")
    monkeypatch.setattr(sys, "stdin", terminal)
    code, out, error = run(capsysbinary, "clear", "--at", "h:1")
    assert error.startswith("Drop every key at h:1? [y/N] ")
    assert (code, out) == ((0, b"1 copy went, on all nodes together\n") if cleared else (1, b""))
    assert (("clear", (), {}) in client.calls) == cleared


def test_clear_without_a_terminal_wants_to_be_told_that_everything_is_meant(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for arguments in (["clear"], ["clear", ""]):
        code, out, error = run(capsysbinary, *arguments)
        assert (code, out) == (2, b"")
        assert "--yes" in error
        assert error.count("\n") == 1
    assert client.calls == []


EVENTS = [
    Invalidation("user:1", InvalidationKind.SET, bytes(15) + b"\x07", "node1"),
    Invalidation(b"\xff\n", InvalidationKind.DELETE, bytes(16), "node2"),
    Invalidation("u:", InvalidationKind.CLEAR, bytes(16), "node1"),
    Invalidation("", InvalidationKind.GAP, b"", ""),
]


class FakeSubscription(list[Invalidation]):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.clear()


def test_watch_prints_a_line_for_each_event(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["subscribe"] = FakeSubscription(EVENTS)
    code, out, error = run(capsysbinary, "watch", "u")
    assert (code, error) == (0, "")
    assert client.calls[0] == ("subscribe", ("u",), {})
    lines = [line.split(maxsplit=3)[1:] for line in out.decode().splitlines()]
    assert lines == [
        ["set", "node1", "user:1"],
        ["delete", "node2", "\\udcff\\n"],
        ["clear", "node1", "u:*"],
        ["gap", "-", "something may be missing here"],
    ]
    client.answers["subscribe"] = FakeSubscription(EVENTS)
    out = run(capsysbinary, "watch", "--json", "--count", "2")[1]
    first, second = [json.loads(line) for line in out.splitlines()]
    del first["at"]
    assert first == {"key": "user:1", "kind": "set", "version": "00" * 15 + "07", "node": "node1"}
    assert second["key"] == "\udcff\n"


def test_watch_ends_well_with_ctrl_c(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    class Interrupted(FakeSubscription):
        def __iter__(self) -> Any:
            yield self[0]
            raise KeyboardInterrupt

    client.answers["subscribe"] = Interrupted(EVENTS)
    code, out, error = run(capsysbinary, "watch")
    assert (code, error) == (0, "")
    assert b"user:1" in out
    assert client.calls[-1][0] == "close"
    assert "\x1b[33mgap" in event_text(EVENTS[3], "", 0.0, Paint(enabled=True))


def test_incr_prints_the_sum(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["incr"] = 6
    assert run(capsysbinary, "incr", "k") == (0, b"6\n", "")


@pytest.mark.parametrize(
    ("error", "leads_on"),
    [
        (NodeUnavailable("nobody at 127.0.0.1:7101"), "meshcache up"),
        (OperationTimeout("no answer within 5 s"), "--timeout"),
        (QuorumNotReached(2, 1), "meshcache status"),
        (NotANumber("the value is a str"), "--as int"),
        (MeshcacheError("two\nlines"), "two"),
        (ValueError("a lifetime of 0 is refused: write ttl=None"), "ttl=None"),
    ],
)
def test_an_error_exits_2_with_a_line_that_leads_on(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], error: Exception, leads_on: str
) -> None:
    client.answers["gets"] = error
    exit_code, out, err = run(capsysbinary, "get", "k")
    assert (exit_code, out) == (2, b"")
    assert err.startswith("meshcache: ")
    assert err.count("\n") == 1
    assert leads_on in err


def test_every_mistake_of_a_configuration_has_its_line(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    client.answers["gets"] = ConfigError(["a.b: wrong", "c.d: wrong"])
    assert run(capsysbinary, "get", "k") == (2, b"", "meshcache: a.b: wrong\nmeshcache: c.d: wrong\n")


def test_ctrl_c_exits_130(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "get", interrupt)
    assert cli.main(["get", "k"]) == 130
    assert client.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["get"],
        ["set", "k"],
        ["set", "k", "v", "--ttl", "0"],
        ["set", "k", "v", "--ttl", "soon"],
        ["get", "k", "--timeout", "-1"],
        ["bench", "--reads", "2"],
        ["bench", "--keys", "0"],
        ["incr", "k", "--initial", "1", "--must-exist"],
    ],
)
def test_usage_errors_exit_2_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("meshcache: ")
    assert "--help" in err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that refuses a command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1), err
    return err


def typed_arguments() -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every command that is read as something else than text."""
    (commands_of,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for command, parser in commands_of.choices.items():
        for action in parser._actions:
            if action.type is not None:
                yield command, action


BARE = {"node", "up", "status", "stats", "doctor", "top", "ring", "bench", "watch", "clear"}
"""Commands that can do without positional arguments."""


@pytest.mark.parametrize("wrong", ["abc", "", "1.2.3", "1,000", "0x10", "nan"])
def test_no_wrong_number_is_refused_in_the_words_of_a_program(capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    tried = 0
    for command, action in typed_arguments():
        words = [] if command in BARE else ["k", "v"] if command in {"set", "add"} else ["k"]
        if action.option_strings:
            line = refused(capsys, command, *words, f"{action.option_strings[0]}={wrong}")
            assert f"argument {action.option_strings[0]}: must be " in line
        else:
            line = refused(capsys, command, *words, wrong)
            assert f"argument {action.metavar}: must be " in line
        assert repr(wrong) in line
        assert "invalid _" not in line
        assert "invalid int" not in line
        assert f"see `meshcache {command} --help`" in line
        tried += 1
    assert tried > 30


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["set", "k", "v", "--ttl", "0"],
            "--ttl: must be longer than 0, is '0': write never for a key",
        ),
        (["set", "k", "v", "--ttl", "-5"], "--ttl: must be longer than 0, is '-5'"),
        (["set", "k", "v", "--ttl", "inf"], "--ttl: must be a duration, such as 30 (seconds), 250ms, 5m or 1h30m"),
        (["get", "k", "--timeout", "0s"], "--timeout: must be longer than 0, is '0s'"),
        (["bench", "--keys", "0"], "--keys: must be at least 1, is '0'"),
        (["bench", "--keys", "many"], "--keys: must be a whole number of at least 1, is 'many'"),
        (["bench", "--reads", "90"], "--reads: must be from 0 to 1, is '90'"),
        (["up", "--nodes", "three"], "--nodes: must be a whole number, is 'three'"),
        (["incr", "k", "1.5"], "DELTA: must be a whole number, is '1.5'"),
        (["incr", "k", "9" * 5000], "DELTA: must be a whole number, is '9999"),
    ],
)
def test_a_wrong_number_is_refused_with_what_it_may_be(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    line = refused(capsys, *arguments)
    assert says in line
    assert len(line) < 250


@pytest.mark.parametrize(
    ("kind", "says"), [("int", "a whole number"), ("float", "a number"), ("json", "JSON")], ids=lambda text: text[:5]
)
def test_a_value_that_is_not_what_it_is_said_to_be(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], kind: str, says: str
) -> None:
    exit_code, out, err = run(capsysbinary, "set", "k", "five", "--as", kind)
    assert (exit_code, out) == (2, b"")
    assert err.startswith(f"meshcache: VALUE must be {says}, is 'five'")
    assert not client.calls or client.calls[0][0] != "set"


def test_the_mesh_is_named_by_option_or_variable_or_default(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[str, float]] = []

    def open_client(options: Any) -> FakeClient:
        named.append((options.at, options.timeout))
        return FakeClient()

    monkeypatch.setattr(commands, "open_client", open_client)
    monkeypatch.delenv("MESHCACHE_SEEDS", raising=False)
    cli.main(["ttl", "k"])
    monkeypatch.setenv("MESHCACHE_SEEDS", "a:1,b:2")
    cli.main(["ttl", "k"])
    cli.main(["ttl", "--at", "c:3", "k", "--timeout", "0.5"])
    cli.main(["--at", "d:4", "ttl", "k"])
    assert named == [("127.0.0.1:7101", 5.0), ("a:1,b:2", 5.0), ("c:3", 0.5), ("d:4", 5.0)]


def test_every_help_fits_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (commands_of,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for command in ["", *commands_of.choices]:
        with pytest.raises(SystemExit):
            cli.main([*command.split(), "--help"])
        assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "command", ["", "up", "node", "set", "clear", "status", "forget", "stats", "doctor", "top", "completion"]
)
def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), "--help"])
    assert caught.value.code == 0
    assert "examples:\n  meshcache " in capsys.readouterr().out


def test_help_needs_neither_zeromq_nor_structlog() -> None:
    program = (
        "import sys\nfrom meshcache.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'zmq', 'structlog', 'asyncio', 'msgpack'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_node_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []

    def run_node(config: Any, parent_pid: int | None) -> int:
        configs.append((config, parent_pid))
        return 0

    monkeypatch.setattr(commands, "_run_node", run_node)
    arguments = "node --id n1 --listen 127.0.0.1:9001 --seed a:1 --seed b:2 --set store.max_entries=7 --parent-pid 5"
    assert cli.main(arguments.split()) == 0
    config, parent_pid = configs[0]
    assert (config.node.id, config.node.listen, config.node.seeds) == ("n1", "127.0.0.1:9001", ("a:1", "b:2"))
    assert (config.store.max_entries, parent_pid) == (7, 5)


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32malive" in status_text([member("node1")], Paint(enabled=True))
    assert "\x1b" not in status_text([member("node1")], PLAIN)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert commands.paint()("x", 31) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert commands.paint()("x", 31) == "x"


def test_the_figures_of_a_load() -> None:
    latencies_s = [index / 1000 for index in range(1, 101)]
    outcome = Outcome(elapsed_s=2.0, get_latencies_s=latencies_s, set_latencies_s=[0.5])
    figures = outcome.as_dict()
    assert (figures["operations"], figures["operations_per_s"]) == (101, 50.5)
    assert figures["get"] == {"count": 100, "p50_ms": 51.0, "p99_ms": 100.0, "max_ms": 100.0}
    assert outcome.succeeded
    outcome.errors["QuorumNotReached: 1 of 2"] += 3
    assert "3 times QuorumNotReached: 1 of 2" in outcome.as_text(PLAIN)
    nothing = Outcome(elapsed_s=1.0)
    assert not nothing.succeeded
    assert nothing.as_dict()["get"]["p99_ms"] is None


@pytest.mark.parametrize("form", ["json", "console"])
def test_logs_go_to_stderr_in_the_form_asked_for(form: str) -> None:
    program = (
        "import logging\nfrom meshcache.cli import log\nfrom meshcache.config import LogSettings\n"
        f"log.configure(LogSettings(format={form!r}, level='info'))\n"
        "logging.getLogger('meshcache.node').info('joined', extra={'peer': 'a:1'})\n"
        "logging.getLogger('meshcache.node').debug('detail')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    if form == "json":
        fields = json.loads(done.stderr)
        assert (fields["event"], fields["level"], fields["peer"]) == ("joined", "info", "a:1")
    else:
        assert "joined peer=a:1" in done.stderr
