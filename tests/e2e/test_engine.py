"""The engine of the tests: it starts again whatever its last run has left."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon

# Not beside the tests of sites: a daemon that starts empties the chains of published ports.
pytestmark = pytest.mark.container


def test_a_mount_that_the_daemon_leaves_is_no_obstacle(tmp_path: Path) -> None:
    """After a container in the host's network the daemon ends without unmounting that network."""
    engine = DockerDaemon(tmp_path)
    engine.up()
    left = engine.socket.parent / "exec/netns/default"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", left], check=True)
    engine.down()
    assert str(left) not in Path("/proc/self/mountinfo").read_text()
    engine.up()
    engine.down()
    assert not engine.socket.parent.exists()
