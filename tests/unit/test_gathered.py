"""One line for many projects that fail in the same way."""

from __future__ import annotations

from pathlib import Path

from appliance.core.run.errors import ApplianceError, LocalFailure
from caso import gathered

DENIED = ("Permission denied", "chown fedcloud /spool")


def test_fifty_projects_and_one_spool() -> None:
    spool = Path("/spool/.caso-staged/ab")
    failures = [LocalFailure(spool / f"p{number:02d}.new", *DENIED) for number in range(50)]
    (line,) = gathered.lines(failures)
    assert line == (
        "/spool/.caso-staged/ab/p00.new, /spool/.caso-staged/ab/p01.new,"
        " /spool/.caso-staged/ab/p02.new and 47 more: Permission denied; chown fedcloud /spool"
    )


def test_a_few_have_a_line_each() -> None:
    failures = [ApplianceError(f"project p{number}", *DENIED) for number in range(3)]
    assert gathered.lines(failures) == [str(failure) for failure in failures]


def test_other_causes_and_remedies_stay_apart() -> None:
    same = [ApplianceError(f"project p{number}", *DENIED) for number in range(4)]
    other = ApplianceError("project p5", "is disabled", "enable it")
    own = [ApplianceError(f"project p{n}", "has no role", f"add p{n}") for n in range(5)]
    assert len(gathered.lines([*same, other, *own])) == 1 + 1 + 5


def test_the_same_line_comes_once() -> None:
    failure = ApplianceError("cloud.example.org", "refuses the account", "correct the password")
    assert gathered.lines([failure] * 50) == [str(failure)]
