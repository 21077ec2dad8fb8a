"""What every program's ``main()`` does: common flags, one line for each error, the exit status."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.layout import Layout
from appliance.core.version import __version__


@dataclass(frozen=True, slots=True)
class Program:
    """A command: its name, what it is for, its own flags, and what it does with them."""

    name: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], ExitStatus]
    compatible_status: Callable[[ExitStatus], int] = lambda status: int(status is not ExitStatus.DONE)
    """The exit status that the upstream program of this name would give, for ``--compat-exit-codes``."""
    version_flags: Sequence[str] = ("--version",)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitStatus.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def flags(name: str) -> tuple[str, ...]:
    """Return both spellings of a long option, with dashes and with underscores, as oslo.config accepts them."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))


def parser(program: Program) -> argparse.ArgumentParser:
    """Return the program's parser with the flags that all programs share."""
    made = _Parser(prog=program.name, description=program.description, allow_abbrev=False)
    made.add_argument(*program.version_flags, action="version", version=f"{program.name} {__version__}")
    program.add_arguments(made)
    common = made.add_argument_group("common to all programs")
    common.add_argument("--check-config", action="store_true", help="read the configuration, report, do nothing else")
    common.add_argument("--debug", action="store_true", help="log every step, and a traceback if the program breaks")
    common.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    common.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="root directory of the site's files (default: /, or $FEDCLOUD_ROOT)",
    )
    common.add_argument(
        "--compat-exit-codes", action="store_true", help="exit as the upstream program of this name does"
    )
    return made


def layout(arguments: argparse.Namespace) -> Layout:
    """Return the layout of the site that this run is for."""
    return Layout(arguments.root) if arguments.root else Layout.of_environment()


def log_level(arguments: argparse.Namespace, configured: int = logging.INFO) -> int:
    """Return the level to log at: DEBUG when asked for on the command line, else the configured one."""
    return logging.DEBUG if arguments.debug else configured


def main(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run a program and return its exit status; no exception passes, and no message carries a secret."""
    arguments = parser(program).parse_args(argv)
    log.configure(level=log_level(arguments), as_json=arguments.log_json)
    status = _guarded(program, arguments)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return program.compatible_status(status) if arguments.compat_exit_codes else int(status)


def _guarded(program: Program, arguments: argparse.Namespace) -> ExitStatus:
    try:
        return program.run(arguments)
    except ApplianceError as error:
        report(program.name, error)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nobody to tell
        return ExitStatus.DONE
    except OSError as error:
        if error.filename is None and error.errno is None:
            return _bug(program.name, error, arguments)
        report(program.name, LocalFailure.from_os(error))
        return ExitStatus.NOTHING
    except KeyboardInterrupt:
        print(f"{program.name}: interrupted; run again to go on", file=sys.stderr)
        return ExitStatus.NOTHING
    except Exception as error:  # noqa: BLE001  the edge: whatever is left is a bug, told in one line
        return _bug(program.name, error, arguments)


def report(name: str, error: ApplianceError) -> None:
    """Print a failure to standard error, each of its lines with the program's name before it."""
    for line in log.redact(str(error)).splitlines():
        print(f"{name}: {line}", file=sys.stderr)


def _bug(name: str, error: BaseException, arguments: argparse.Namespace) -> ExitStatus:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    words = " ".join(f"{type(error).__name__}: {error}".split())
    print(
        log.redact(f"{name}: bug in this program: {words} ({where}); please report it, with --debug"),
        file=sys.stderr,
    )
    if arguments.debug:
        print(log.redact("".join(traceback.format_exception(error))), file=sys.stderr)
    return ExitStatus.BUG
