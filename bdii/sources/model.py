"""A source of LDIF and its answer: the values of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core.ldif import Entry
from bdii.messages import MOST_LINES
from bdii.tree import Dn

Translate = Callable[[Iterable[Entry]], Iterable[Entry]]


@dataclass(frozen=True, slots=True)
class LdifSource:
    """A file with LDIF, or a program that prints it.

    Attributes:
        name: unique among the sources of a BDII.
        command: the path of the file, or the program and its arguments.
        is_program: whether the command is run.
        timeout: for a program.
        limit: bytes of output that are accepted.
        translate: applied to the entries before they become a tree.
        meanings: remedies by exit status, for programs that do not print one.
        most_lines: number of entries of its output whose faults are named one by one.
        version: a program that prints the version of the data, or nothing if they have none.

    """

    name: str
    command: Sequence[str | Path]
    is_program: bool
    timeout: timedelta
    limit: int
    translate: Translate = iter
    meanings: Mapping[int, str] = field(default_factory=dict)
    most_lines: int = MOST_LINES
    version: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """The answer of a source.

    Attributes:
        source: its name.
        tree: its entries; None if the answer is unusable.
        failed: VOs that the source could not read.
        problems: lines for the administrator.
        remarks: more of them, from what the program printed beside this output.
        digest: of the exit status and the output.
        is_complete: whether each record could be read, so that what is not there has gone.
        is_terminated: whether the output ends with a line end.
        reading: seconds of the processor that it took to read the output.
        version: what the source called its data just before it gave them; empty if nothing.
        read_at: when it gave them, by the monotonic clock.

    """

    source: str
    tree: dict[Dn, Entry] | None
    failed: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    digest: bytes = b""
    is_complete: bool = True
    is_terminated: bool = True
    reading: float = field(default=0, compare=False)
    remarks: tuple[str, ...] = field(default=(), compare=False)
    version: str = field(default="", compare=False)
    read_at: float = field(default=0, compare=False)

    def repeats(self, before: SourceAnswer | None) -> bool:
        """Check whether this is the answer before once more."""
        return before is not None and self.tree is not None and self.tree is before.tree
