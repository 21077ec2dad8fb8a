"""What the units of a host without containers start their programs with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/native/libexec/with-authorities"
SETTINGS = "/etc/fedcloud/appliance.yaml"


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ("logs: journal\n", "1"),
        ("---\nlogs: 'journal'  # of systemd\n", "1"),
        ('logs:   "journal"\n', "1"),
        ("logs: files\n", ""),
        ("# logs: journal\n", ""),
        ("logs: journals\n", ""),
        (None, ""),
    ],
)
def test_services_log_json_to_the_journal(settings: str | None, form: str, tmp_path: Path) -> None:
    """As the settings of the host have it; no setting, or no file, is text."""
    file = tmp_path / "appliance.yaml"
    if settings is not None:
        file.write_text(settings)
    text = SCRIPT.read_text()
    assert SETTINGS in text
    words = ["/bin/sh", "-c", text.replace(SETTINGS, str(file)), "sh"]
    shown = subprocess.run(
        [*words, "/bin/sh", "-c", 'printf %s "$FEDCLOUD_LOG_JSON"'],
        env={"FEDCLOUD_CA_BUNDLE": "/x", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == (form, "")
