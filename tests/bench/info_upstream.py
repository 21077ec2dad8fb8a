"""The upstream BDII as the peer of ours, for `scripts/bench info`: Debian's package bdii, unpacked.

As it is, it publishes nothing: it calls OpenLDAP's tools with ``-h HOST -p PORT``, which OpenLDAP
2.5 does not know any more, takes no notice of their failure, and every cycle begins with an empty
tree. So the tools that it finds are scripts here, which write the address as ``-H URL``. The
program itself is unchanged. slapd has the package's configuration, in other directories, and
``maxsize``: without it the database is full with some 5 600 entries.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import usage
from tests.e2e.bdii_service import free_port, search
from tests.e2e.ldap_clients import connect
from tests.testbed.patience import until

PACKAGE = Path(__file__).parents[2] / ".cache/peer-bdii"
_TOOLS = ("ldapadd", "ldapmodify", "ldapdelete", "ldapsearch")
_TOOL = """\
#!/bin/bash
words=()
while [ $# -gt 0 ]; do
  case $1 in
    -h) host=$2; shift 2 ;;
    -p) port=$2; shift 2 ;;
    *) words+=("$1"); shift ;;
  esac
done
exec /usr/bin/TOOL -H "ldap://$host:$port" "${words[@]}"
"""
_SECONDS = 900
_CYCLES = 5
# The program sleeps before its first cycle: "some time for the init.d script to finish".
_FIRST_SLEEP = 3


class UpstreamBdii:
    """The BDII in a directory of its own. Its provider prints what ``write`` puts into a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        for name in ("gip/ldif", "gip/provider", "gip/plugin", "archive", "run/db", "tools"):
            (directory / name).mkdir(parents=True)
        for name in ("stats", "glue", "grid"):
            (directory / "db" / name).mkdir(parents=True)
        for tool in _TOOLS:
            self._script(f"tools/{tool}", _TOOL.replace("TOOL", tool))
        shutil.copy(PACKAGE / "usr/share/bdii/default.ldif", directory / "gip/ldif")
        self.provide()
        package = (PACKAGE / "usr/share/bdii/bdii-slapd.conf").read_text()
        places = {"/etc/bdii": PACKAGE / "etc/bdii"}
        places |= {"/var/lib/bdii": directory, "/run/bdii": directory / "run"}
        for place, ours in places.items():
            package = package.replace(place, str(ours))
        package = package.replace("dbnosync\n", "dbnosync\nmaxsize 4294967296\n")
        (directory / "slapd.conf").write_text(package)
        self._configure()

    def _configure(self) -> None:
        text = (PACKAGE / "etc/bdii/bdii.conf").read_text()
        text = text.replace("/var/lib/bdii", str(self.directory))
        text = re.sub("/(run|var/log)/bdii", str(self.directory / "run"), text)
        settings = {"LOG_LEVEL": "INFO", "PORT": self.port, "BREATHE_TIME": 1}
        for name, value in settings.items():
            text = re.sub(f"(?m)^BDII_{name}=.*$", f"BDII_{name}={value}", text)
        run = self.directory / "run"
        text += f"\nBDII_RUN_DIR={run}\nBDII_HOSTNAME=127.0.0.1\n"
        (self.directory / "bdii.conf").write_text(text)

    def _script(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)

    def provide(self, *, status: int = 0) -> None:
        """Let the provider print the file, or fail."""
        words = f"exit {status}" if status else f"exec cat {self.directory}/cloud.ldif"
        self._script("gip/provider/cloud", f"#!/bin/sh\n{words}\n")

    @property
    def cycles(self) -> int:
        """Return how many cycles have ended."""
        return (self.directory / "run/bdii-update.log").read_text().count("Sleeping for")

    def wait_for_cycles(self, count: int) -> None:
        """Wait until so many more cycles have ended."""
        before = self.cycles
        assert until(lambda: self.cycles >= before + count, seconds=_SECONDS)

    @property
    def process(self) -> int:
        """Return the id of the process."""
        return int((self.directory / "run/bdii-update.pid").read_text())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run slapd and the program during the block."""
        conf = self.directory / "slapd.conf"
        tools = {"PATH": f"{self.directory}/tools:{os.environ['PATH']}", "SLAPD_CONF": str(conf)}
        url = f"ldap://127.0.0.1:{self.port}"
        command = ["/usr/sbin/slapd", "-d", "0", "-f", str(conf), "-h", url]
        program = ["python3", str(PACKAGE / "usr/sbin/bdii-update"), "-d", "-c"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as slapd:
            try:
                assert until(self._is_answering, seconds=60)
                log = self.directory / "run/bdii-update.log"
                log.touch()
                program.append(str(self.directory / "bdii.conf"))
                subprocess.run(program, env={**os.environ, **tools}, check=True)
                yield
            finally:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(self.process, signal.SIGKILL)
                slapd.kill()

    def _is_answering(self) -> bool:
        with contextlib.suppress(OSError), connect(self.port):
            return True
        return False


def measure(
    directory: Path,
    entries: int,
    *,
    write: Callable[[Path, int, str], None],
    count_changed: Callable[[int], int],
    row: Callable[[str, float, str], None],
) -> None:
    """Print the rows of the upstream program.

    ``write`` puts the tree into a file, with titles for the images that change; ``count_changed``
    returns how many of these a port shows as changed.
    """
    bdii = UpstreamBdii(directory)
    case = f"{entries} upstream bdii"
    write(directory / "cloud.ldif", entries, "image")
    begin = time.monotonic()
    with bdii.running():
        bdii.wait_for_cycles(1)
        row(f"{case}: first publication", time.monotonic() - begin - _FIRST_SLEEP, "s")
        before = _csns(bdii)
        row(f"{case}: entries below o=glue", len(before), "entries")
        row(f"{case}: memory at the first load", usage.high_water_mark(bdii.process), "MiB")
        bdii.wait_for_cycles(1)
        used = usage.cpu_of(bdii.process)
        bdii.wait_for_cycles(_CYCLES)
        row(f"{case}: unchanged cycle", (usage.cpu_of(bdii.process) - used) / _CYCLES, "CPU s")
        written = sum(1 for dn, csn in _csns(bdii).items() if before.get(dn) != csn)
        row(f"{case}: unchanged cycle: entries written below o=glue", written, "entries")
        write(directory / "cloud.ldif", entries, "changed image")
        begin = time.monotonic()
        assert until(lambda: count_changed(bdii.port) > 0, seconds=_SECONDS)
        row(f"{case}: changed: visible", time.monotonic() - begin, "s")
        bdii.wait_for_cycles(1)
        row(f"{case}: memory after a change", usage.high_water_mark(bdii.process), "MiB")
        bdii.provide(status=1)
        bdii.wait_for_cycles(3)
        row(f"{case}: entries left after a provider fails", len(_csns(bdii)), "entries")


def _csns(bdii: UpstreamBdii) -> dict[str, list[str]]:
    try:
        found = search(bdii.port, "o=glue", "entryCSN")
    except subprocess.CalledProcessError:  # no o=glue at all
        return {}
    return {dn: attributes["entryCSN"] for dn, attributes in found.items()}
