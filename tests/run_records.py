"""A run's record and metrics, read as others read them: metrics by Prometheus's own client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Figures:
    """What both files of one run say; that they agree has been checked."""

    status: int
    failures: list[str]
    counts: dict[str, float]


def read(root: Path, program: str, *, below: str = "") -> Figures:
    """Return the figures of the last run of a program at a site."""
    runs = root / "var/lib/fedcloud/runs" / below
    entry = json.loads((runs / f"{program}.json").read_bytes())
    text = (runs / f"{program}.prom").read_text()
    metrics = {
        sample.name.removeprefix("fedcloud_run_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert metrics["exit_status"] == entry["status"]
    assert metrics["failures"] == len(entry["failures"])
    assert {name: metrics[name] for name in entry["counts"]} == entry["counts"]
    assert (entry["status"] == 0) == (not entry["failures"])
    return Figures(entry["status"], entry["failures"], entry["counts"])
