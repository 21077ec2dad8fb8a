"""The worst that a source can do: all entries stay, marked as stale, also after a restart.

F-I1: a provider that once printed the beginning of its output, and failed from then on, left 25 of
267 entries, although the cycle had reported a malformed record.
"""

import shlex
import signal
from pathlib import Path

import pytest

from tests.e2e.bdii_service import Bdii, Entries, cloud, image, images, running

IMAGES = 261
GOOD = cloud(*(image(n, "ops") for n in range(IMAGES)))
# A whole record more or less: where an output that is cut looks like a smaller cloud.
SMALL = cloud(*(image(n, "ops") for n in range(19)))
# Each image but the first nine loses its class.
POISONED = cloud(
    *(image(n) if n < 9 else image(n).replace("objectClass", "obj\x00ct") for n in range(IMAGES)),
    image(0),
)

ONCE = 'test -e "$0.once" && exit 1; touch "$0.once"; '
WORST = {
    "cut in a record": "head -c 20000 {good}",
    "cut in a record once, then it fails": f"{ONCE}head -c 20000 {{good}}",
    "cut in its last value": "head -c -20 {good}",
    "cut between records once, then it fails": f"{ONCE}cat {{small}}",
    "empty": ":",
    "empty, with a comment": "echo '# nothing here'",
    "hangs": "cat {good}; sleep 60",
    "poisoned": "cat {poisoned}",
    "not LDIF": "cat /bin/true",
    "zeros": "head -c 30000 /dev/zero",
    "lies that it failed for no VO": "cat {small}; echo '# failed: '; exit 1",
    "killed": "cat {small}; kill -9 $$",
}


def stale(entries: Entries) -> set[str]:
    return {
        dn
        for dn, found in entries.items()
        if {"Stale=TRUE"} & set(found.get("GLUE2EntityOtherInfo", []))
    }


def entities(entries: Entries) -> set[str]:
    return {dn for dn, found in entries.items() if "GLUE2Entity" in found["objectClass"]}


_ALIKE = {"cut in a record", "cut in its last value", "empty, with a comment", "zeros"}
"""Each has another one that is read in the same way."""


@pytest.mark.parametrize(
    "worst",
    [
        pytest.param(
            name,
            id=name.replace(" ", "_"),
            marks=[pytest.mark.matrix] if name in _ALIKE else [],
        )
        for name in WORST
    ],
)
def test_all_entries_stay_marked_as_stale(tmp_path: Path, worst: str) -> None:
    settings = {"BDII_READ_TIMEOUT": 1, "BDII_SHRINK_HOLD": 1}
    bdii = Bdii(tmp_path, settings)
    files = {"good": GOOD, "small": SMALL, "poisoned": POISONED}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    bdii.provide(GOOD)
    with running(bdii):
        bdii.wait_for_images(IMAGES)
        good = bdii.entries()
        script = WORST[worst].format(**{n: shlex.quote(str(tmp_path / n)) for n in files})
        bdii.script(script)
        kept = entities(good) - (fresh(good) if worst == "poisoned" else set())
        bdii.wait_for(lambda: stale(bdii.entries()) == kept, what="all stale")
        bdii.wait_for_cycles(4)
        assert bdii.entries().keys() == good.keys()
        bdii.signal(signal.SIGTERM)
    with running(bdii):
        bdii.wait_for(lambda: bdii.log.count(" serving ") == 2, what="a restart")
        bdii.wait_for_cycles(3)
        found = bdii.entries()
        assert found.keys() == good.keys()
        assert stale(found) == kept
        bdii.provide(GOOD)
        bdii.wait_for(lambda: not stale(bdii.entries()), what="no stale entries")
        assert len(images(bdii.entries())) == IMAGES


def fresh(entries: Entries) -> set[str]:
    """Return the entities that the poisoned output has."""
    numbers = {f"=img{number}_" for number in range(9)}
    return {
        dn
        for dn in entities(entries)
        if not dn.startswith("GLUE2Application") or any(number in dn for number in numbers)
    }


def test_entries_that_a_second_answer_lacks_are_removed(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 60})
    bdii.provide(cloud(*(image(n) for n in range(9))))
    with running(bdii):
        bdii.wait_for_images(9)
        bdii.wait_for_cycles(1)
        bdii.provide(cloud(*(image(n) for n in range(8))))
        bdii.wait_for(lambda: " 1 deletions waiting" in bdii.log, what="a first answer without it")
        assert len(images(bdii.entries())) == 9
        assert not stale(bdii.entries())
        bdii.wait_for_cycles(1)
        bdii.wait_for_images(8)


def test_a_silent_source_stays_while_an_expired_part_goes(tmp_path: Path) -> None:
    """The data of VO b, which fails, expire; those of a source that is silent stay for longer."""
    bdii = Bdii(tmp_path, {"BDII_EXPIRY": 1, "BDII_EXPIRY_SILENT": 0})
    bdii.provide(cloud(image(1, "a"), image(2, "b"), image(3, "a")))
    with running(bdii):
        bdii.wait_for_images(3)
        bdii.provide(cloud(image(1, "a"), image(3, "a"), "# failed: b\n"), status=1)
        bdii.wait_for_images(2)
        bdii.script("exit 3")
        bdii.wait_for(lambda: len(stale(bdii.entries())) == 4, what="all stale")
        bdii.wait_for_cycles(4)
        assert len(images(bdii.entries())) == 2
