"""Flags of the programs, as rows of the reference, from the parsers that the programs use."""

from __future__ import annotations

import argparse
import importlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from unittest import mock

from appliance.core.run import cli
from docs.generator.sites import TOP

_SILENT = argparse.SUPPRESS
_MANY = 10
_REFUSED = "refused"
"""Where flags end that a program knows and refuses, by `dest`."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One row: a flag or an argument."""

    spellings: tuple[str, ...]
    value: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A program, or one verb of it."""

    name: str
    description: str
    flags: Sequence[Flag]
    ignored: Sequence[str]
    """Flags of the upstream program that are accepted and have no effect."""
    refused: Sequence[str]
    """Flags of the upstream program that end the run with a usage error."""
    like: str = ""
    """The verb whose flags it has besides."""


def commands() -> dict[str, list[Command]]:
    """Return the commands of each program of the distribution, verbs after the program itself."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    found = {}
    for name, target in sorted(project["scripts"].items()):
        module, _, function = target.partition(":")
        found[name] = _shortened(list(_walk(name, _parser(module, function))))
    return found


def _shortened(verbs: list[Command]) -> list[Command]:
    """Leave out flags that many verbs have in common with the first: it is enough to list them."""
    first, *others = verbs
    found = [first]
    for verb in others:
        own = [flag for flag in verb.flags if flag not in first.flags]
        if len(verb.flags) - len(own) > _MANY:
            verb = replace(verb, flags=own, ignored=(), like=first.name)  # noqa: PLW2901
        found.append(verb)
    return found


def shared() -> dict[str, Flag]:
    """Return the flags that `cli` adds to every program, by their spelling."""
    program = cli.Program("any", "", lambda _: None, lambda _: 0, version_flags=("--version",))
    return {_spelling(action): _flag(action) for action in _actions(cli.parser(program))}


def _parser(module: str, function: str) -> argparse.ArgumentParser:
    """Return the parser of a program: its entry point hands the program to `cli.main`."""
    start = getattr(importlib.import_module(module), function)
    with mock.patch.object(cli, "main", return_value=0) as run:
        start()
    program: cli.Program = run.call_args.args[0]
    return cli.parser(program)


def _walk(name: str, parser: argparse.ArgumentParser) -> Iterator[Command]:
    verbs: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # noqa: SLF001  argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            verbs = {verb: child.parser for verb, child in action.choices.items()}
    if not verbs:
        yield _command(name, parser)
    for verb, child in verbs.items():
        yield from _walk(f"{name} {verb}", child)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the flags and arguments of a parser, without those that only print something."""
    printing = (argparse._HelpAction, argparse._VersionAction)  # noqa: SLF001
    found: list[argparse.Action] = parser._actions  # noqa: SLF001
    return [action for action in found if not isinstance(action, printing)]


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    common = shared()
    actions = [action for action in _actions(parser) if _spelling(action) not in common]
    silent = [action for action in actions if action.help == _SILENT]
    return Command(
        name=name,
        description=" ".join((parser.description or "").split()),
        flags=[_flag(action) for action in actions if action not in silent],
        ignored=[_spelling(action) for action in silent if action.dest != _REFUSED],
        refused=[_spelling(action) for action in silent if action.dest == _REFUSED],
    )


def _spelling(action: argparse.Action) -> str:
    return ", ".join(action.option_strings) or action.dest


def _flag(action: argparse.Action) -> Flag:
    text = " ".join(str(action.help or "").split())
    default = action.default
    is_plain = isinstance(default, str | int) and not isinstance(default, bool)
    if is_plain and default != _SILENT and "default" not in text and action.nargs != 0:
        text = f"{text} (default: {default})"
    return Flag(tuple(action.option_strings) or (_value(action),), _shown(action), text)


def _shown(action: argparse.Action) -> str:
    """Return the value that a flag takes; an argument is its own value."""
    takes_value = action.option_strings and action.nargs != 0
    return _value(action) if takes_value else ""


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()
