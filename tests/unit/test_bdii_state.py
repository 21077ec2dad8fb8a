"""State files that are missing or that another program has changed."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.ldif import Entry
from bdii import tree
from bdii.plan import NOTHING_VANISHED
from bdii.service.state import StateDirectory
from bdii.sources.last_good import LastGood

WRITTEN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TREE = tree.of(
    [Entry("GLUE2GroupID=x,o=glue", {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("x",)})]
)[0]


@pytest.mark.parametrize(
    "memory", [None, "", "{", "[]", "null", '{"sources": 3}', '{"sources": {"provider/cloud": {}}}']
)
def test_last_good_data_outlive_the_memory_of_their_age(tmp_path: Path, memory: str | None) -> None:
    StateDirectory(tmp_path).save({"provider/cloud": LastGood(TREE, WRITTEN)}, NOTHING_VANISHED)
    file_time = (WRITTEN + timedelta(hours=1)).timestamp()
    (file,) = (tmp_path / "sources").iterdir()
    os.utime(file, (file_time, file_time))
    if memory is None:
        (tmp_path / "memory.json").unlink()
    else:
        (tmp_path / "memory.json").write_text(memory)
    found, vanished = StateDirectory(tmp_path).load()
    assert {name: dict(last.tree) for name, last in found.items()} == {"provider/cloud": TREE}
    assert found["provider/cloud"].collected == WRITTEN + timedelta(hours=1)
    assert vanished == NOTHING_VANISHED
