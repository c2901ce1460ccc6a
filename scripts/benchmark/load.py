"""The client programs of a row that has them in processes of their own, seen from the benchmark.

Each is ``python -m benchmark.client_program``: it opens the session of the row within, says that it is ready, and runs
a block for each line with a number of seconds on its standard input, which it answers with one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

from .clients import NotOffered
from .measure import Block, cpu_seconds
from .servers import Server, module_environment, of_this_kind, process

if TYPE_CHECKING:
    from types import TracebackType

    from .rows import Row

STOP_S_MAX: Final = 10.0


class ClientPrograms:
    """Some programs that do the same at the same time. They have the native module as their server has it."""

    def __init__(self, row: Row, server: Server, contestant: str, count: int) -> None:
        self._server = server
        spec = {"row": [type(row).__name__, asdict(row)], "server": asdict(server), "contestant": contestant}
        self._command = [sys.executable, "-m", "benchmark.client_program", json.dumps(spec)]
        self._count = count
        self._stack = ExitStack()
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        environment = of_this_kind(self._server.kind, module_environment())
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
        with ExitStack() as stack:
            for _ in range(self._count):  # one after the other: each empties the store before it loads it
                child = stack.enter_context(process(self._command, **pipes))
                self._children.append(child)
                if reason := self._answer_of(child).get("not_offered"):
                    raise NotOffered(reason)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            for child in self._children:
                assert child.stdin is not None
                child.stdin.close()
            for child in self._children:
                child.wait(STOP_S_MAX)  # it empties the store

    @staticmethod
    def _answer_of(child: subprocess.Popen[str]) -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"a client program ended with status {child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def block(self, seconds: float) -> Block:
        """Let all programs run a block of so long at the same time."""
        before = cpu_seconds(self._server.pids)
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
        answers = [self._answer_of(child) for child in self._children]
        return Block(
            keys_per_call=answers[0]["keys_per_call"],
            calls_ns=[call_ns for answer in answers for call_ns in answer["calls_ns"]],
            elapsed_s=max(answer["elapsed_s"] for answer in answers),
            server_cpu_s=cpu_seconds(self._server.pids) - before,
            client_cpu_s=sum(answer["client_cpu_s"] for answer in answers),
        )
