"""Lines that a file of shell variables may not have, and their messages."""

from pathlib import Path

import pytest

from appliance.core.config import shell
from appliance.core.run.errors import ConfigurationError

PATH = Path("/etc/x/openstack.rc")


@pytest.mark.parametrize(
    ("text", "line", "reported"),
    [
        (
            "\nexport OS_PASSWORD=$(cat /etc/pw)",
            2,
            "OS_PASSWORD: $(…) would be replaced by a shell",
        ),
        ("export OS_PASSWORD=`cat /etc/pw`", 1, "OS_PASSWORD: `…` would be replaced by a shell"),
        ("OS_AUTH_URL=x\nOS_PASSWORD=a$SECRET", 2, "OS_PASSWORD: $ would be replaced by a shell"),
        ('OS_PASSWORD="a${SECRET}b"', 1, "OS_PASSWORD: $ would be replaced by a shell"),
        ("OS_CACERT=~/ca.pem", 1, "OS_CACERT: ~ would be replaced by a shell"),
        (
            "OS_PASSWORD=my SECRET",
            1,
            "OS_PASSWORD: a value with blanks must be in quotes; nothing is executed",
        ),
        (
            "OS_PASSWORD=my&SECRET",
            1,
            "OS_PASSWORD: & would run something; put the value into quotes",
        ),
        ("# x\n\nOS_PASSWORD='my SECRET\n", 3, "OS_PASSWORD: a quote is not closed"),
        ("read -sr SECRET", 1, "only NAME=value is read here; nothing is executed"),
        ("unset SECRET", 1, "only NAME=value is read here; nothing is executed"),
        ("export 1SECRET=x", 1, "only NAME=value is read here; nothing is executed"),
    ],
)
def test_what_a_shell_would_do_is_refused_without_showing_values(
    text: str, line: int, reported: str
) -> None:
    """R26: nothing is executed."""
    with pytest.raises(ConfigurationError) as raised:
        shell.parse(PATH, text)
    assert str(raised.value).startswith(f"{PATH}:{line}: {reported}")
    assert "SECRET" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_lines_are_told_together() -> None:
    with pytest.raises(ConfigurationError) as raised:
        shell.parse(PATH, "A=$B\nC=1\nD=`e`\nif\n")
    assert [problem.line for problem in raised.value.problems] == [1, 3, 4]


def test_forms_of_openstack_rc_of_all_releases() -> None:
    """R26."""
    text = (
        "export OS_USERNAME=cloud-info\r\nexport OS_PASSWORD='secret-12'\r\nOS_PROJECT_NAME=\"a "
        'b" # ops\r\n'
    )
    entries = shell.parse(PATH, text).sections["DEFAULT"]
    assert {name: (entry.text, entry.line) for name, entry in entries.items()} == {
        "OS_USERNAME": ("cloud-info", 1),
        "OS_PASSWORD": ("secret-12", 2),
        "OS_PROJECT_NAME": ("a b", 3),
    }
