"""`caso report --html`: its pictures have the figures of the ledger, and of Nova's flavors."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Sight, Span, Stream
from caso.usage import charts
from tests.unit.test_caso_report import verb

SVG = "{http://www.w3.org/2000/svg}"
BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")
NAMES = ("Servers", "CPU hours", "Memory: GiB hours", "What was accounted, by project and kind")


@pytest.fixture
def page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return the page of a server with 4 cores and 8 GiB: two days, a gap of two, and a day."""
    until = BEGIN + timedelta(days=5)
    wall = int((until - BEGIN).total_seconds())
    row = LedgerRow("a", Month(202611), wall, until, "<ops>", "u", wall * 4)
    with Ledger(tmp_path / "caso/ledger.sqlite") as ledger:
        stream = Stream(ORIGIN, "cloud", "ssm")
        for number, (first, last) in enumerate([(0, 2), (4, 5)]):
            intent = ledger.deliveries.intent(f"batch {number}", stream)
            intent.add(b"\1" * 32, [row])
            span = Span(BEGIN + timedelta(days=first), BEGIN + timedelta(days=last))
            intent.seal(span, checkpoint=until)
            ledger.deliveries.confirm(f"batch {number}")
        look = ledger.sightings.look(ORIGIN, "cloud")
        look.see([Sight("a", "u", {"memory": 8192})])
        look.close(until)
    status, text, err = verb("report", tmp_path, capsys, monkeypatch, "--html")
    assert (status, err) == (0, "")
    return text


def pictures(page: str) -> dict[str, list[str]]:
    """Return the words of the boxes of each picture, by its title."""
    found = {}
    for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(text)  # noqa: S314  our own
        title = root.findtext(f"{SVG}text") or ""
        found[title] = [one.text for one in root.iter(f"{SVG}title") if one.text]
    return found


def test_the_pictures_have_each_day(page: str) -> None:
    found = pictures(page)
    assert tuple(found) == NAMES
    days = [f"2026-11-0{number}" for number in (2, 3, 4, 5, 6)]
    assert found["Servers"][:5] == [f"<ops> {day}: 1.0" for day in days]
    assert found["CPU hours"][1:5] == [f"<ops> {day}: 96.0" for day in days[1:]]
    assert found["Memory: GiB hours"][1:5] == [f"<ops> {day}: 192.0" for day in days[1:]]


def test_the_map_shows_what_was_not_accounted(page: str) -> None:
    states = dict(
        zip(("2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05", "2026-11-06"),
            ("done", "done", "missing", "missing", "done"), strict=True)
    )  # fmt: skip
    found = pictures(page)[NAMES[3]]
    for day, state in states.items():
        assert f"p1 cloud {day}: {state}" in found


def test_names_of_vos_are_no_markup(page: str) -> None:
    assert "<ops>" not in page
    assert "&lt;ops&gt;" in page
    assert "<script" not in page


def test_a_report_of_nothing_is_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "caso/ledger.sqlite"):
        pass
    status, text, _ = verb("report", tmp_path, capsys, monkeypatch, "--html")
    assert status == 0
    assert all(not words for words in pictures(text).values())


def test_many_vos_have_a_colour_for_the_rest() -> None:
    series = {f"vo{number:02}": {"2026-11-01": float(number)} for number in range(1, 21)}
    root = ET.fromstring(charts.bars("CPU", ["2026-11-01"], series))  # noqa: S314  our own
    shown = [one.text for one in root.iter(f"{SVG}title") if one.text]
    assert shown[0] == "vo20 2026-11-01: 20.0"
    assert shown[-1] == f"others 2026-11-01: {sum(range(1, 14)):.1f}"
    assert len(shown) == 8
    heights = [float(one.get("height", 0)) for one in root.iter(f"{SVG}rect") if one[0].text]
    assert sum(heights) == pytest.approx(160, abs=0.1)
