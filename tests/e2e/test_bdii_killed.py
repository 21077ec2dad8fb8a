"""The program is killed at a system call while it changes a tree; the next start repairs it."""

import itertools
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.bdii_service import Bdii, Entries, cloud, image, images, parse, running
from tests.e2e.killpoints import Command, KillMatrix

OLD = cloud(*(image(n, "ops") for n in range(8)))
NEW = cloud(*(image(n, "ops", name="changed" if n == 4 else "") for n in range(3, 11)))

# Runs the service until the new tree is published and on disk, and stores the entries that a client
# finds at the start and at the end. An engine that was killed would be started again and killed at
# the same call, so the process above it is killed too; slapd keeps serving. The log of the run
# before says that it was killed; and before the first line of its own, a signal would end the
# service.
UNTIL_PUBLISHED = """
rm -f "$SEEN/log"
"$@" --serve 2>"$SEEN/log" & pid=$!
ends() {
  grep -qs 'was killed by SIGKILL' "$SEEN/log" && kill -KILL $pid
  ! kill -0 $pid 2>/dev/null
}
look() {
  ldapsearch -x -LLL -o ldif-wrap=no -H "ldap://127.0.0.1:$PORT" -b o=glue >"$1" 2>/dev/null
  [ $? = 0 ] && [ -s "$1" ]
}
until look "$SEEN/first" || ends; do sleep 0.3; done
has() { grep -q "$1" "$STATE/published.ldif"; }
until grep -qs -e 'taking over' -e ' serving ' "$SEEN/log" || ends; do sleep 0.3; done
until has img10_ && ! has img0_ || ends; do sleep 0.3; done
sleep 0.5
look "$SEEN/last"
ends
kill -TERM $pid 2>/dev/null
wait $pid
"""

CALLS = ("rename", "fsync", "mkdir", "sendto")
"""Calls with effects outside the process, without those that slapd and its tools make too."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of a service that has published the old tree."""
    directory = tmp_path_factory.mktemp("published")
    bdii = Bdii(directory)
    bdii.provide(OLD)
    with running(bdii):
        bdii.wait_for_images(8)
        bdii.wait_for_cycles(1)
        assert bdii.signal(signal.SIGTERM) == 0
    return directory / "state"


def matrix(published: Path, directory: Path) -> KillMatrix:
    number = itertools.count()
    latest: list[Path] = []

    def prepare() -> Command:
        here = directory / str(next(number))
        here.mkdir()
        latest[:] = [here]
        # cp keeps the sparse files of the database sparse
        subprocess.run(["cp", "-a", published, here / "state"], check=True)
        bdii = Bdii(here)  # the removal needs a second cycle
        bdii.provide(NEW)
        env = {"PORT": str(bdii.port), "STATE": str(here / "state"), "SEEN": str(here)}
        outside = ["sh", "-c", UNTIL_PUBLISHED, "sh"]
        return Command([*outside, *bdii.command], env, begin=len(outside))

    def seen(name: str) -> Entries:
        return parse((latest[0] / name).read_text())

    def verify() -> None:
        first, last = images(seen("first")), images(seen("last"))
        assert all(entry.pop("GLUE2EntityCreationTime") for entry in last.values())
        assert last == images(parse(NEW))
        assert len(first) >= 5, "a reader saw fewer than both trees have in common"

    return KillMatrix(prepare=prepare, verify=verify, syscalls=CALLS)


def test_killed_at_some_calls(published: Path, tmp_path: Path) -> None:
    matrix(published, tmp_path).run(sample=3, seed=3)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_killed_at_every_call(published: Path, tmp_path: Path) -> None:
    matrix(published, tmp_path).run(sample=None)
