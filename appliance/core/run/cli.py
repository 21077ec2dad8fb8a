"""The ``main()`` of every program: common flags, one line for each error, the exit status."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from appliance.core.run import live, log
from appliance.core.run.errors import ApplianceError, ConfigurationError, ExitStatus, LocalFailure
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """A command: its name, its purpose, its own flags, and the function that runs it."""

    name: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    """Returns an `ExitStatus`, or the exit status of a program that it started."""
    compatible_status: Callable[[ExitStatus], int] = lambda status: int(
        status is not ExitStatus.DONE
    )
    """The exit status of the upstream program of this name, for ``--compat-exit-codes``."""
    version_flags: Sequence[str] = ("--version",)
    verbs: Sequence[Program] = ()
    """Commands of this command, each with its own flags; `dispatch` runs the one that is given."""
    default_verb: str = ""
    """The verb of a command line without one; flags before any verb are read as its flags, too."""
    takes_h: bool = False
    """Whether ``-h`` is a flag of the command; help is ``--help`` alone then."""
    has_rest: bool = False
    """Whether the words after ``--`` belong to another program; ``rest`` holds them then."""
    reads_flags_of_files: bool = False
    """Whether ``@FILE`` stands for the words in a file, one a line."""
    attempts: live.Attempts | None = None
    """Tries what a run contacts, for ``--check-live``; None for a program that contacts nothing."""
    attempted_row: str = "C36"
    """The row in the table of faults of attempts that do not end."""


class _Parser(argparse.ArgumentParser):
    has_rest = False
    reads_flags_of_files = False
    default: Verb | None = None
    """The default verb."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words before ``--``; argparse loses the words after it behind flags."""
        words = sys.argv[1:] if args is None else list(args)
        if self.reads_flags_of_files:
            words = [*self._expanded(words)]
        if self.default and words[:1] not in (["-h"], ["--help"]):
            words = self.default.parser.with_verb_first(words)
        end = words.index("--") if self.has_rest and "--" in words else len(words)
        found, left = super().parse_known_args(words[:end], namespace)
        if self.has_rest:
            found.rest = words[end + 1 :]
        return found, left

    def _expanded(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the words of a command line, those of a file in place of ``@FILE``."""
        from appliance.core.config import document  # noqa: PLC0415  it imports this package

        for word in words:
            if not word.startswith("@"):
                yield word
                continue
            try:
                text = document.read_text(Path(word[1:]))
            except ConfigurationError as error:
                self.error(str(error))
            yield from filter(None, document.lines(text))

    def with_verb_first(self, words: Sequence[str]) -> list[str]:
        """Return the words of a command line with the verb before flags of this default verb."""
        at = 0
        while at < len(words) and words[at].startswith("-") and words[at] != "--":
            flag, has_value, _ = words[at].partition("=")
            if flag == "--version":
                return [flag]
            at += 1
            action = self._option_string_actions.get(flag)
            if action is None or has_value or action.nargs == 0:
                continue
            most = 1 if action.nargs is None else len(words)
            while most and at < len(words) and not words[at].startswith("-"):
                at, most = at + 1, most - 1
        if at == len(words) or words[at] == "--":
            return [self.prog.rpartition(" ")[2], *words]
        return [words[at], *words[:at], *words[at + 1 :]]

    def error(self, message: str) -> NoReturn:
        self.exit(ExitStatus.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


class Verb:
    """The parser of a verb, made when a command line names the verb or asks for its help."""

    def __init__(self, *, verb: Program, **options: Any) -> None:
        self._verb = verb
        self._options = options

    @cached_property
    def parser(self) -> _Parser:
        """Return the parser with all flags of the verb."""
        verb = self._verb
        made = _Parser(
            **self._options,
            allow_abbrev=False,
            conflict_handler="resolve" if verb.takes_h else "error",
        )
        verb.add_arguments(made)
        if verb.verbs:
            _add_verbs(made, verb.verbs, default=verb.default_verb)
        else:
            made.has_rest = verb.has_rest
            made.set_defaults(verb=verb)
            _add_common(made, verb)
        return made

    def parse_known_args(self, args: Any, namespace: Any) -> Any:
        """Parse the words after the verb; argparse asks nothing else of a verb's parser."""
        return self.parser.parse_known_args(args, namespace)


def flags(name: str) -> tuple[str, ...]:
    """Return a long option with dashes and with underscores: oslo.config accepts both."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))


def parser(program: Program) -> argparse.ArgumentParser:
    """Return the parser of a program, with the flags that all programs share."""
    made = _Parser(prog=program.name, description=program.description, allow_abbrev=False)
    made.add_argument(
        *program.version_flags, action="version", version=f"{program.name} {__version__}"
    )
    made.reads_flags_of_files = program.reads_flags_of_files
    program.add_arguments(made)
    if program.verbs:
        _add_verbs(made, program.verbs, default=program.default_verb)
    else:
        _add_common(made, program)
    return made


def _add_verbs(made: _Parser, verbs: Sequence[Program], *, default: str = "") -> None:
    added: Any = made.add_subparsers(
        metavar="VERB", required=True, title="verbs", parser_class=Verb
    )
    for verb in verbs:
        words = verb.description
        child: Verb = added.add_parser(verb.name, verb=verb, description=words, help=words)
        if verb.name == default:
            made.default = child


def dispatch(arguments: argparse.Namespace) -> int:
    """Run the command that the command line names."""
    verb: Program = arguments.verb
    return verb.run(arguments)


def _add_common(made: argparse.ArgumentParser, program: Program) -> None:
    common = made.add_argument_group("common to all programs")
    common.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration, print its problems, and exit",
    )
    common.add_argument(
        "--show-config",
        action="store_true",
        help="check the configuration, print each option that was read, without secrets, and where"
        " it is set, and exit",
    )
    if program.attempts:
        common.add_argument(
            "--check-live",
            action="store_true",
            help="check the configuration, try what a run contacts, print the faults, and exit",
        )
    common.add_argument(
        "--debug", action="store_true", help="log every step, and a traceback of a bug"
    )
    common.add_argument("--log-json", action="store_true", help="log one JSON object on each line")
    common.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="root directory of the site's files (default: $FEDCLOUD_ROOT, or /)",
    )
    common.add_argument(
        "--compat-exit-codes",
        action="store_true",
        help="use the exit codes of the upstream program of this name",
    )


def file_to_write(text: str) -> Path:
    """Return the name of a file; the type of a flag or argument.

    Raises:
        argparse.ArgumentTypeError: It is that of a directory, whose last slash a path would lose.

    """
    if text.endswith("/") or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a directory: name a file in it")
    return Path(text)


def layout(arguments: argparse.Namespace) -> Layout:
    """Return the layout of the site that this run serves."""
    return Layout(arguments.root.absolute()) if arguments.root else Layout.of_environment()


def configure_log(
    arguments: argparse.Namespace,
    *,
    level: int = logging.INFO,
    file: Path | None = None,
    console: bool | None = None,
    as_json: bool = False,
    system: log.SystemLogs | None = None,
    warnings: Iterable[object] = (),
    logger: logging.Logger = logger,
) -> None:
    """Set up the log by a program's configuration and the common flags, then log ``warnings``.

    Unless ``console`` says otherwise, standard error gets the log if no file does.

    Raises:
        LocalFailure: the file cannot be opened.

    """
    found = list(warnings)
    also = _system_handlers(system, found) if system and not log.is_checking() else []
    log.configure(
        level=logging.DEBUG if arguments.debug else level,
        file=file,
        console=file is None if console is None else console,
        as_json=as_json or arguments.log_json or bool(os.environ.get(log.JSON_VARIABLE)),
        also=also,
    )
    for warning in found:
        logger.warning("%s", warning)


def _system_handlers(system: log.SystemLogs, warnings: list[object]) -> list[logging.Handler]:
    """Return the handlers of the system's logs; what cannot be used becomes a warning."""
    if not (system.syslog or system.journal):
        return []
    from appliance.core.run import system_log  # noqa: PLC0415  start-up is a cost

    try:
        return list(system_log.handlers(system, Path(sys.argv[0]).name))
    except OSError as error:
        where = " and ".join(
            name
            for name, is_used in (("/dev/log", system.syslog), ("the journal", system.journal))
            if is_used
        )
        words = f"use_syslog, use_journal: {where} cannot be used: {error.strerror}"
        warnings.append(f"{words}; the log goes on where it went before")
        return []


class _Process:
    """What is known of this process."""

    is_ours = False
    """Whether it is one program, and not a test that runs many."""


def keep_loaded() -> None:
    """Leave the modules that are loaded by now out of each search for garbage, because they stay.

    A run that loads most of its modules when it needs them calls this afterwards.
    """
    if _Process.is_ours:
        gc.freeze()


def main(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run a program and return its exit status; no exception passes, no message shows a secret."""
    if argv is None:
        _Process.is_ours = True
        keep_loaded()
    # Names may have characters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parser(program).parse_args(argv)
    is_live = getattr(arguments, "check_live", False)
    arguments.check_config = arguments.check_config or arguments.show_config or is_live
    log.check_only(is_on=arguments.check_config, is_showing=arguments.show_config)
    configure_log(arguments)
    log.hide_proxies()
    status = _guarded(program, arguments, program.run)
    if is_live and status == ExitStatus.DONE:
        status = _guarded(program, arguments, functools.partial(_try_all, program))
    log.check_only(is_on=False)
    if arguments.check_config and arguments.log_json:
        _print_values()
    if arguments.show_config:
        _print_settings(as_json=arguments.log_json)
    status = _flushed(program.name, status)
    if arguments.compat_exit_codes and status in set(ExitStatus):
        return program.compatible_status(ExitStatus(status))
    return int(status)


_NO_THREAD = "can't start new thread"  # Python has no class of its own for this RuntimeError


def _try_all(program: Program, arguments: argparse.Namespace) -> ExitStatus:
    """Print what the attempts of a program, or of its verb, find."""
    tried: Program = getattr(arguments, "verb", program)
    attempts, row = tried.attempts, tried.attempted_row
    status = ExitStatus.DONE
    for finding in live.findings(attempts, arguments, row=row) if attempts else ():
        if finding.is_error:
            status = ExitStatus.PARTLY
        if arguments.log_json:
            _print_error(json.dumps({"finding": finding.as_json()}, ensure_ascii=False))
        else:
            _print_error(f"{program.name}: {finding.identifier}: {finding}")
    return status


def _guarded(
    program: Program,
    arguments: argparse.Namespace,
    run: Callable[[argparse.Namespace], int],
) -> int:
    try:
        return run(arguments)
    except ApplianceError as error:
        report_in_form(program.name, error, arguments)
        return error.status
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _is_output_read():
            return ExitStatus.DONE  # the reader, such as head(1), has ended on purpose
        if error.filename is None and error.errno is None:
            return _bug(program.name, error, arguments)
        report(program.name, LocalFailure.from_os(error))
        return ExitStatus.NOTHING
    except KeyboardInterrupt:
        _print_error(f"{program.name}: interrupted; run it again")
        return ExitStatus.NOTHING
    except Exception as error:  # noqa: BLE001  all that is left here is a bug
        if str(error) == _NO_THREAD:
            report(
                program.name,
                LocalFailure(
                    "threads", "no more can be started", "raise the limit of processes (ulimit -u)"
                ),
            )
            return ExitStatus.NOTHING
        return _bug(program.name, error, arguments)


def report_in_form(name: str, error: ApplianceError, arguments: argparse.Namespace) -> None:
    """Print a failure in the form that the common flags ask for."""
    if arguments.check_config and arguments.log_json:
        _report_json(name, error)
    else:
        report(name, error)


def report(name: str, error: ApplianceError) -> None:
    """Print a failure to standard error, each line after the program's name."""
    for line in log.redact(str(error)).splitlines():
        _print_error(f"{name}: {line}")
        log.keep(line, name=name)


def _print_values() -> None:
    """Print the options that are compared with other files, one JSON object on each line."""
    from appliance.core.config import settings  # noqa: PLC0415  settings imports this package

    for value in settings.observed():
        entry = {name: str(getattr(value, name)) for name in ("section", "option", "text", "path")}
        _print_error(log.json_line({"value": {**entry, "line": value.line}}))


def _print_settings(*, as_json: bool) -> None:
    """Print all options that were read: one JSON object on each line, or lines for a person."""
    from appliance.core.config import settings  # noqa: PLC0415  settings imports this package

    for value in settings.shown():
        if as_json:
            names = ("section", "option", "text", "path")
            entry = {name: str(getattr(value, name)) for name in names} | {"line": value.line}
            _print_error(log.json_line({"setting": entry}))
        else:
            print(log.one_line(log.redact(f"{value.place}: {value.named} = {value.text}")))


def _report_json(name: str, error: ApplianceError) -> None:
    """Print the problems that a check found as JSON, in the form of the log's lines."""
    problems = error.problems if isinstance(error, ConfigurationError) else ()
    entry: dict[str, object] = {"logger": name, "level": "ERROR", "message": log.redact(str(error))}
    found = [
        entry | {"message": log.redact(str(one)), "problem": log.as_json(one)} for one in problems
    ] or [entry]
    for one in found:
        _print_error(log.json_line(one))


def _bug(name: str, error: BaseException, arguments: argparse.Namespace) -> ExitStatus:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    words = " ".join(log.redact(f"{type(error).__name__}: {error}").split())
    line = f"bug in this program: {words} ({where}); report it with the output of --debug"
    _print_error(f"{name}: {line}")
    log.keep(line, name=name)
    if arguments.debug:
        for line in log.redact("".join(traceback.format_exception(error))).splitlines():
            _print_error(line)
    return ExitStatus.BUG


def _print_error(line: str) -> None:
    """Print a line to standard error, if it is open and can be written."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(log.one_line(log.redact(line)), file=sys.stderr)


def _is_output_read() -> bool:
    """Check whether standard output has a reader; else it may be the pipe that broke."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, AttributeError):  # not a file, or closed
        return True
    return not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _flushed(name: str, status: int) -> int:
    """Flush the outputs; a failed flush turns a successful run into a failed one."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError as error:
            # The interpreter flushes once more when it exits, and would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                report(name, LocalFailure.from_os(error, subject="standard output"))
                status = ExitStatus.NOTHING if status is ExitStatus.DONE else status
    return status
