"""Completion, in the real shells: they are asked what would come next."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pyte
import pytest

from meshcache.cli.completion import SHELLS, script
from meshcache.cli.main import main
from meshcache.cli.parser import make_parser

DEADLINE_S = 30.0


def needs(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def bash(line: str, directory: Path, _: list[str]) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script('bash', make_parser())}\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _meshcache; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    path = directory / "program.bash"
    path.write_text(program)
    done = subprocess.run([needs("bash"), path], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def fish(line: str, directory: Path, _: list[str]) -> list[str]:
    path = directory / "meshcache.fish"
    path.write_text(script("fish", make_parser()))
    command = f"source {path}; complete -C '{line}'"
    environment = os.environ | {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    done = subprocess.run(
        [needs("fish"), "--no-config", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == ""
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


def zsh(line: str, directory: Path, offered: list[str]) -> list[str]:
    """zsh completes for people only: one is played, who presses tab and reads the screen until all that is there."""
    (directory / "_meshcache").write_text(script("zsh", make_parser()))
    (directory / ".zshrc").write_text(
        f"fpath=({directory} $fpath); autoload -U compinit; compinit -D -u; PS1='READY> '\n"
        "setopt auto_list no_auto_menu; LISTMAX=10000\n"
    )
    path = needs("zsh")
    screen = pyte.Screen(160, 50)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(path, [path, "-i"], os.environ | {"ZDOTDIR": str(directory), "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))

    def read_until(*words: str) -> list[str]:
        deadline = time.monotonic() + DEADLINE_S
        while not set(words) <= set(seen := " ".join(screen.display).split()):
            if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            stream.feed(os.read(terminal, 65_536).replace(b"\0", b""))
        return seen

    try:
        read_until("READY>")
        os.write(terminal, f"{line}\t\t".encode())
        return read_until(*offered)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


OFFERS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("meshcache st", ["stats", "status"], ["ring"]),
        ("meshcache --at h:1 st", ["stats", "status"], ["ring"]),
        ("meshcache set k v --t", ["--tag", "--timeout", "--ttl"], ["--wide", "--tail"]),
        ("meshcache set k v --as ", ["float", "int", "json", "str"], ["--ttl"]),
        ("meshcache completion ", ["bash", "fish", "zsh"], ["status"]),
        ("meshcache status --", ["--wide", "--json"], ["--every"]),
    ],
)
def test_what_a_shell_offers(shell: str, line: str, offered: list[str], not_offered: list[str], tmp_path: Path) -> None:
    found = OFFERS[shell](line, tmp_path, offered)
    assert set(offered) <= set(found), found
    assert not set(not_offered) & set(found), found


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for name in ("invalidate", "completion", "value-bytes", "must-exist", "every"):
        assert name in out


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "bash" in capsys.readouterr().err
