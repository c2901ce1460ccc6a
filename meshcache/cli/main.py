"""The command ``meshcache``: reads the command line, and turns outcomes into exit codes.

A miss, or a condition that did not hold, exits 1 with nothing on standard output. An error exits 2 with a line on
standard error that says what to do next. Modules that cost time to import are imported by the command that needs them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from meshcache.cli.parser import EXIT_ERROR, make_parser
from meshcache.client.seeds import KEY_FILE_VARIABLE
from meshcache.errors import (
    AuthFailed,
    ConfigError,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationTimeout,
    Overloaded,
    QuorumNotReached,
)

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_NO_READER: Final = 128 + signal.SIGPIPE

_ADVICE: Final[tuple[tuple[type[MeshcacheError], str], ...]] = (
    (NodeUnavailable, "is a mesh running there? Start one with `meshcache up`, or name another with --at"),
    (OperationTimeout, "allow more time with --timeout, or see `meshcache status`"),
    (QuorumNotReached, "see `meshcache status` for nodes that are down"),
    (Overloaded, "try again later, or see `meshcache stats`"),
    (AuthFailed, "name your key with --key-file; `meshcache keygen --help` says who gets which rights"),
    (NotANumber, "store a number with `meshcache set KEY 5 --as int`"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = make_parser().parse_args(arguments)
    if options.key_file is not None:
        os.environ[KEY_FILE_VARIABLE] = options.key_file  # where every client looks for it
    try:
        exit_code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would try to flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER
    except MeshcacheError as error:
        return _report(error)
    except ValueError as error:  # an argument that the client refuses, such as a lifetime of zero
        return _report(error)
    return exit_code


def _report(error: Exception) -> int:
    problems = error.problems if isinstance(error, ConfigError) else [str(error) or type(error).__name__]
    advice = next((f": {text}" for kind, text in _ADVICE if isinstance(error, kind)), "")
    for problem in problems:
        print(f"meshcache: {' '.join(problem.split())}{advice}", file=sys.stderr)
    return EXIT_ERROR
