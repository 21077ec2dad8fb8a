"""State files that are missing or that another program has changed."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.ldif import Entry
from bdii import tree
from bdii.service.state import StateDirectory
from bdii.sources.last_good import Absence, LastGood, StaleAge

WRITTEN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TREE = tree.of(
    [Entry("GLUE2GroupID=x,o=glue", {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("x",)})]
)[0]


@pytest.mark.parametrize(
    "memory", [None, "", "{", "[]", "null", '{"sources": 3}', '{"sources": {"provider/cloud": {}}}']
)
def test_last_good_data_outlive_the_memory_of_their_age(tmp_path: Path, memory: str | None) -> None:
    StateDirectory(tmp_path).save({"provider/cloud": LastGood(TREE, WRITTEN)})
    file_time = (WRITTEN + timedelta(hours=1)).timestamp()
    (file,) = (tmp_path / "sources").iterdir()
    os.utime(file, (file_time, file_time))
    if memory is None:
        (tmp_path / "memory.json").unlink()
    else:
        (tmp_path / "memory.json").write_text(memory)
    found = StateDirectory(tmp_path).load()
    assert {name: dict(last.tree) for name, last in found.items()} == {"provider/cloud": TREE}
    assert found["provider/cloud"].collected == WRITTEN + timedelta(hours=1)


def test_waits_outlive_a_restart_and_are_not_prolonged_by_it(tmp_path: Path) -> None:
    last = LastGood(
        TREE,
        WRITTEN,
        {"ops": StaleAge(WRITTEN, timedelta(hours=3))},
        {dn: Absence(WRITTEN, 2, timedelta(minutes=4), timedelta(minutes=5)) for dn in TREE},
        timedelta(hours=6),
        is_terminated=True,
    )
    StateDirectory(tmp_path).save({"provider/cloud": last})
    assert StateDirectory(tmp_path).load() == {"provider/cloud": last}


def test_the_memory_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """What that release held back is only in the published tree: it goes by proof, too."""
    store = StateDirectory(tmp_path)
    store.save({"provider/cloud": LastGood({}, WRITTEN)})
    store.write_published(TREE)
    times = {"vanished": {dn: WRITTEN.isoformat() for dn in TREE}, "held_since": None}
    source = {"collected": WRITTEN.isoformat(), "failed": {"a": WRITTEN.isoformat()}}
    memory = {"sources": {"provider/cloud": {**source, "silent": True}}, **times}
    (tmp_path / "memory.json").write_text(json.dumps(memory))
    found = StateDirectory(tmp_path).load()
    assert found["held"].tree == TREE
    assert found["provider/cloud"] == LastGood(
        {}, WRITTEN, {"a": StaleAge(WRITTEN)}, silence=timedelta()
    )


@pytest.mark.parametrize("wait", ["-1", "1e300", "NaN", '"x"', "null", "Infinity"])
def test_a_wait_that_is_no_number_of_seconds_is_damage(tmp_path: Path, wait: str) -> None:
    last = LastGood(TREE, WRITTEN, silence=timedelta(seconds=7))
    StateDirectory(tmp_path).save({"provider/cloud": last})
    file = tmp_path / "memory.json"
    file.write_text(file.read_text().replace('"silence": 7.0', f'"silence": {wait}'))
    assert StateDirectory(tmp_path).load()["provider/cloud"].silence is None


def test_slapadd_can_load_the_published_tree_in_its_order(tmp_path: Path) -> None:
    """Parents come first, whatever order the source had."""
    names = ("GLUE2GroupID=x,GLUE2GroupID=y,o=glue", "GLUE2GroupID=y,o=glue", "o=glue")
    entries = [Entry(name, {"objectClass": ("GLUE2Group",)}) for name in names]
    store = StateDirectory(tmp_path)
    store.write_published(tree.of(entries)[0])
    written = [
        line.removeprefix("dn: ")
        for line in store.published_file.read_text().splitlines()
        if line.startswith("dn: ")
    ]
    assert written == list(reversed(names))
    assert list(StateDirectory(tmp_path).published().values()) == list(reversed(entries))
