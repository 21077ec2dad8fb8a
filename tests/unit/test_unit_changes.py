"""Which change of a unit needs a restart of the service."""

from __future__ import annotations

import pytest

from appliance.admin.install.units import changes_service

UNIT = """\
[Unit]
Description=A service
[Service]
# why
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("ExecStart=/bin/true", "ExecStart=/bin/false", True),
        ("[Install]", "Restart=always\n[Install]", True),
        ("# why", "# another comment", False),
        ("[Service]", "RequiresMountsFor=/var/lib/fedcloud\n[Service]", False),
        ("multi-user.target", "docker.service", False),
    ],
)
def test_only_the_service_section_counts(before: str, after: str, *, expected: bool) -> None:
    changed = UNIT.replace(before, after)
    assert changes_service(UNIT.encode(), changed.encode()) is expected


def test_a_new_unit_and_a_timer() -> None:
    assert changes_service(b"", UNIT.encode())
    assert not changes_service(b"", b"[Timer]\nOnCalendar=hourly\n")
