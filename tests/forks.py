"""A plugin of pytest: run the collected tests in several processes, which are forks of this one.

    pytest -p tests.needs -p tests.forks --forks NUMBER [PATH …]

What tests import is imported once, and they are collected once, before the forks begin. A fork
takes the first row of tests that no other one has begun (`needs.row`) and runs it in its order.
When all rows are begun, it takes tests of that shared row of which most are left. Each fork makes
the fixtures of a session or a module that its tests need. If a fork ends early, the others go on,
and the tests that it leaves have failed.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from itertools import chain, groupby, pairwise
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import pytest

from tests import needs

_FORK = multiprocessing.get_context("fork")
_WORTH = 10
"""Tests for which a fork is made."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("forks").addoption("--forks", type=int, default=1, help="processes of tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest rows."""
    if config.getoption("forks") > 1:
        items.sort(key=needs.rank)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests in forks, unless one process is enough."""
    ask = session.config.getoption
    number = min(ask("forks"), len(session.items) // _WORTH)
    if number < 2 or ask("collectonly") or ask("usepdb") or session.testsfailed:
        return None
    _Parent(session).run(number)
    return True


class _Choice:
    """The tests that no fork has taken, in memory that all forks share."""

    def __init__(self, items: list[pytest.Item]) -> None:
        rows = groupby(range(len(items)), lambda index: needs.row(items[index]))
        self._rows = [list(indices) for _, indices in rows]
        self._shared = [
            row for row, indices in enumerate(self._rows) if needs.is_shared(items[indices[0]])
        ]
        self._next = _FORK.Array("l", [indices[0] for indices in self._rows])
        self._mine: int | None = None

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of the tests of this fork."""
        while (index := self._take()) is not None:
            yield index

    def _take(self) -> int | None:
        with self._next.get_lock():
            if self._mine is None or not self._left(self._mine):
                self._mine = self._another()
            if self._mine is None or not self._left(self._mine):
                return None
            index: int = self._next[self._mine]
            self._next[self._mine] += 1
            return index

    def _left(self, row: int) -> int:
        following: int = self._next[row]
        return self._rows[row][-1] + 1 - following

    def _another(self) -> int | None:
        """Return the first row that no fork has begun, else the longest shared one."""
        for row, indices in enumerate(self._rows):
            if self._next[row] == indices[0]:
                return row
        return max(self._shared, key=self._left, default=None)

    def end(self) -> None:
        """Leave nothing to take."""
        with self._next.get_lock():
            for row, indices in enumerate(self._rows):
                self._next[row] = indices[-1] + 1


class _Parent:
    """The process that was started; it reports what the forks do."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._hook = session.config.hook
        self._choice = _Choice(session.items)
        self._left = {item.nodeid: item for item in session.items}
        self._forks: dict[Connection, int] = {}

    def run(self, number: int) -> None:
        """Report until all forks have ended.

        Raises:
            Session.Failed: so many tests have failed that the run ends
        """
        self._prepare()
        try:
            for _ in range(number):
                self._fork()
            self._report_all()
        except BaseException:
            for child in self._forks.values():
                os.kill(child, signal.SIGINT)
            for child in self._forks.values():
                os.waitpid(child, 0)
            raise
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        for item in self._left.values():
            words = "the process that had to run it has ended"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call")
            self._hook.pytest_runtest_logreport(report=report)

    def _prepare(self) -> None:
        """Make what forks share: one directory for temporary files, and an empty buffer."""
        config = self._session.config
        vars(config)["_tmp_path_factory"].getbasetemp()
        terminal = config.pluginmanager.getplugin("terminalreporter")
        assert terminal is not None
        terminal.showfspath = False  # tests of several files take turns
        terminal.flush()

    def _fork(self) -> None:
        ours, its = _FORK.Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            for inherited in (ours, *self._forks):
                inherited.close()
            _Fork(self._session, self._choice, its).run()
        its.close()
        self._forks[ours] = child

    def _report_all(self) -> None:
        while self._forks:
            for ready in wait([*self._forks]):
                assert isinstance(ready, Connection)
                try:
                    reports = ready.recv()
                except EOFError:
                    os.waitpid(self._forks.pop(ready), 0)
                else:
                    self._report(reports)

    def _report(self, phases: list[dict[str, Any]]) -> None:
        config = self._session.config
        reports = [
            self._hook.pytest_report_from_serializable(config=config, data=data) for data in phases
        ]
        where = {"nodeid": reports[0].nodeid, "location": reports[0].location}
        self._hook.pytest_runtest_logstart(**where)
        for report in reports:
            self._hook.pytest_runtest_logreport(report=report)
        self._hook.pytest_runtest_logfinish(**where)
        del self._left[reports[0].nodeid]
        if self._session.shouldfail:
            self._choice.end()


class _Fork:
    """A process that runs tests and sends their reports to its parent."""

    def __init__(self, session: pytest.Session, choice: _Choice, parent: Connection) -> None:
        self._session = session
        self._config = session.config
        self._choice = choice
        self._parent = parent
        self._reports: list[dict[str, Any]] = []

    def run(self) -> NoReturn:
        """Run tests until none is left; the session is ended by the parent alone."""
        atexit._clear()  # what the parent made is removed by the parent
        try:
            self._change_plugins()
            self._run_tests()
        except BaseException:  # noqa: BLE001  # the parent names the tests that are left
            traceback.print_exc(file=sys.__stderr__)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._session._setupstate.teardown_exact(None)
        finally:
            atexit._run_exitfuncs()
            os._exit(0)

    def _change_plugins(self) -> None:
        plugins = self._config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(self)
        capture = plugins.getplugin("capturemanager")
        assert capture is not None
        capture.stop_global_capturing()  # which is into a file whose position all forks share
        capture.start_global_capturing()

    def _run_tests(self) -> None:
        items = self._session.items
        for index, following in pairwise(chain(self._choice, (None,))):
            assert index is not None
            nextitem = None if following is None else items[following]
            self._config.hook.pytest_runtest_protocol(item=items[index], nextitem=nextitem)
            self._parent.send(self._reports)
            self._reports.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what one phase of a test came to."""
        self._reports.append(
            self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        )
