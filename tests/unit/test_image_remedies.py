"""The commands that messages name, on each kind of host."""

import shlex
from pathlib import Path

import pytest

from appliance.admin.runtime import native
from appliance.core.run import place
from cloudkeeper.frontend import remedies

URL = "https://lists.example.org/image.list?0123456789abcdef"


@pytest.mark.parametrize(
    ("variable", "program"),
    [
        ("", "cloudkeeper"),
        (place.VARIABLE, "appliance run cloudkeeper --"),
        (place.NATIVE, "appliance run cloudkeeper --"),
    ],
    ids=["program", "container", "native"],
)
def test_a_command_is_one_that_the_host_has(
    monkeypatch: pytest.MonkeyPatch, variable: str, program: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, "/etc/a=/site/etc/a")
    shown = remedies.command("trust", URL)
    assert shown == f"{program} trust '{URL}'"
    assert shlex.split(shown)[-2:] == ["trust", URL]


def test_a_program_is_a_verb_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the appliance, the program itself is on the path."""
    assert place.command("ssmsend", "ssmctl", "failed") == "ssmctl failed"
    monkeypatch.setenv(place.VARIABLE, "/etc/a=/site/etc/a")
    assert place.command("ssmsend", "ssmctl", "failed") == "appliance run ssmsend -- failed"


def test_jobs_without_containers_are_recognised() -> None:
    given = native.environment({}, named_authorities="", root=Path("/"))
    assert place.NATIVE in given
