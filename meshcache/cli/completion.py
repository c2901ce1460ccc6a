"""Completion scripts for shells, made from the grammar of the command line: so they know every command and option.

A script is plain data and a few lines of the shell's own language; nothing of meshcache runs when somebody presses tab.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")
_FILES: Final = frozenset({"FILE", "DIR"})


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command, as shells complete it."""

    names: Sequence[str]
    help: str
    takes_value: bool
    choices: Sequence[str] = ()
    is_path: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as shells complete it."""

    name: str
    help: str
    options: Sequence[Option]
    choices: Sequence[str]
    """What its first argument may be, where only some words are."""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return what a shell reads to complete the command line."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](list(_commands(parser)))


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """Return the commands; the first, without a name, stands for what comes before one."""
    yield Command("", "", _options(parser), ())
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to look at a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            summaries = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            for name, command in action.choices.items():
                yield Command(name, summaries.get(name, ""), _options(command), _first_words(command))


def _options(parser: argparse.ArgumentParser) -> list[Option]:
    return [
        Option(
            names=action.option_strings,
            help=re.sub(r"\s+", " ", "" if action.help in {None, argparse.SUPPRESS} else str(action.help)),
            takes_value=action.nargs != 0,
            choices=[str(choice) for choice in action.choices or ()],
            is_path=action.metavar in _FILES,
        )
        for action in parser._actions  # noqa: SLF001
        if action.option_strings
    ]


def _first_words(parser: argparse.ArgumentParser) -> list[str]:
    for action in parser._actions:  # noqa: SLF001
        if not action.option_strings:
            return [str(choice) for choice in action.choices or ()]
    return []


def _with_value(commands: Sequence[Command]) -> list[str]:
    """Return the options after which a value comes, of whatever command."""
    return list(
        dict.fromkeys(
            name for command in commands for option in command.options if option.takes_value for name in option.names
        )
    )


# -- bash --------------------------------------------------------------------------------------------------

_BASH: Final = """\
# Completion of meshcache for bash: source this, or put it where bash-completion looks.
_meshcache() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="" i words=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            {with_value}) ((i++)) ;;
            -*) ;;
            *) command="${{COMP_WORDS[i]}}"; break ;;
        esac
    done
    COMPREPLY=()
    case "$command $previous" in
{values}
    esac
    case "$previous" in
        {with_value}) return ;;
    esac
    case "$command" in
{commands}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _meshcache meshcache
"""


def _bash(commands: Sequence[Command]) -> str:
    values, lines = [], []
    names = [command.name for command in commands if command.name]
    for command in commands:
        for option in command.options:
            pattern = "|".join(f'"{command.name} {name}"' for name in option.names)
            if option.choices:
                found = f'compgen -W "{" ".join(option.choices)}" -- "$current"'
                values.append(f"        {pattern}) COMPREPLY=($({found})); return ;;")
            elif option.is_path:
                values.append(f'        {pattern}) COMPREPLY=($(compgen -f -- "$current")); return ;;')
        words = [name for option in command.options for name in option.names]
        words += command.choices if command.name else names
        lines.append(f'        "{command.name}") words="{" ".join(words)}" ;;')
    return _BASH.format(with_value="|".join(_with_value(commands)), values="\n".join(values), commands="\n".join(lines))


# -- zsh ---------------------------------------------------------------------------------------------------

_ZSH: Final = """\
#compdef meshcache
# Completion of meshcache for zsh: put this into a file "_meshcache" in a directory of $fpath, or source it.
_meshcache() {{
    local context state state_descr line
    typeset -A opt_args
    _arguments -C {top} \\
        '1:command:->command' '*::argument:->arguments' && return
    case $state in
        command)
            local -a commands=({names})
            _describe command commands ;;
        arguments)
            case $words[1] in
{commands}
            esac ;;
    esac
}}
if [[ $funcstack[1] = _meshcache ]]; then _meshcache "$@"; else compdef _meshcache meshcache; fi
"""


def _zsh(commands: Sequence[Command]) -> str:
    top, *others = commands
    names = " ".join(_zsh_quoted(f"{command.name}:{command.help.replace(':', ' ')}") for command in others)
    lines = []
    for command in others:
        specs = [spec for option in command.options for spec in _zsh_specs(option)]
        specs.append(_zsh_quoted(f"1:argument:({' '.join(command.choices)})" if command.choices else "*:argument: "))
        lines.append(f"                {command.name}) _arguments {' '.join(specs)} ;;")
    before = " ".join(spec for option in top.options for spec in _zsh_specs(option))
    return _ZSH.format(top=before, names=names, commands="\n".join(lines))


def _zsh_specs(option: Option) -> Iterator[str]:
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    values = f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_path else " "
    for name in option.names:
        yield _zsh_quoted(f"{name}[{text}]" + (f":value:{values}" if option.takes_value else ""))


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish --------------------------------------------------------------------------------------------------


def _fish(commands: Sequence[Command]) -> str:
    top, *others = commands
    lines = [
        "# Completion of meshcache for fish: put this into ~/.config/fish/completions/meshcache.fish",
        "complete -c meshcache -f",
    ]
    names = " ".join(command.name for command in others)
    unnamed = f"-n 'not __fish_seen_subcommand_from {names}'"
    lines += [f"complete -c meshcache {unnamed} -a {c.name} -d {_fish_quoted(c.help)}" for c in others]
    lines += [f"complete -c meshcache {unnamed} {_fish_option(option)}" for option in top.options]
    for command in others:
        named = f"-n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"complete -c meshcache {named} {_fish_option(option)}" for option in command.options]
        if command.choices:
            lines.append(f"complete -c meshcache {named} -a {_fish_quoted(' '.join(command.choices))}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = f" -a {_fish_quoted(' '.join(option.choices))}" if option.choices else " -F" if option.is_path else ""
    return f"{' '.join(names)}{' -r' if option.takes_value else ''}{value} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
