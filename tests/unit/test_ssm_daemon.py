"""The file that names the process in the background."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.run.errors import Busy
from ssm.cmds import daemon


@pytest.mark.parametrize("content", [None, "", "one", "0", "-1", "9" * 30, "4194303999"])
def test_a_file_that_names_no_other_process_is_no_obstacle(
    tmp_path: Path, content: str | None
) -> None:
    pidfile = tmp_path / "run" / "pid"
    if content is not None:
        pidfile.parent.mkdir()
        pidfile.write_text(content)
    script = (
        "import os, sys; from pathlib import Path; from ssm.cmds import daemon\n"
        "daemon.detach(Path(sys.argv[1]))\n"
        "with daemon.named_in(Path(sys.argv[1])):\n"
        "    Path(sys.argv[2]).write_text(f'{os.getpid()} {Path(sys.argv[1]).read_text()}')\n"
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    subprocess.run([sys.executable, "-c", script, str(pidfile), str(fifo)], check=True)
    process, named = fifo.read_text().split()
    assert process == named


def test_a_living_process_is_an_obstacle(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with subprocess.Popen(["sleep", "60"]) as other:
        pidfile.write_text(f"{other.pid}\n")
        with pytest.raises(Busy, match=f"process {other.pid} is alive"):
            daemon.detach(pidfile)
        other.kill()
    assert pidfile.read_text() == f"{other.pid}\n"
    assert daemon._living(pidfile) is None
