"""Figures of the BDII with a large tree: `scripts/bench info [ENTRIES…]`, by default 10044 100000.

Rows are ``info case value unit``. CPU and memory are those of the program, slapd not counted; its
children that have ended, such as providers and ldapsearch, are. The first publication is compared
with ``slapadd -q`` of the same file in the same run, and each size with the upstream program
(`tests.bench.info_upstream`). The smallest size is also measured as clients
meet it, while the tree changes and programs are killed (`tests.bench.info_clients`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import info_clients, info_upstream, usage
from tests.e2e.bdii_service import SERVICE, Bdii, cloud, running, search

_MEASURED_CYCLES = 10
CHANGED = 15
_IMAGE = (
    "dn: GLUE2ApplicationEnvironmentID={name},{service}\n"
    "objectClass: GLUE2Entity\nobjectClass: GLUE2ApplicationEnvironment\n"
    "GLUE2ApplicationEnvironmentID: {name}\n"
    "GLUE2EntityName: {name}\n"
    "GLUE2EntityCreationTime: 2026-11-30T10:00:00Z\n"
    "GLUE2EntityOtherInfo: VO=vo{vo}.example.org\n"
    "GLUE2EntityOtherInfo: image_version=2026.11.30\n"
    "GLUE2ApplicationEnvironmentAppName: {title}\n"
    "GLUE2ApplicationEnvironmentAppVersion: 2026.11.30\n"
    "GLUE2ApplicationEnvironmentRepository: https://appdb.example.org/store/image/{number}/\n"
    "GLUE2ApplicationEnvironmentDescription: a virtual machine with a description of some length\n"
    "GLUE2ApplicationEnvironmentComputingManagerForeignKey: "
    "https://cloud.example.org:5000/v3_cloud.compute_manager\n\n"
)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog="scripts/bench info", description=__doc__)
    parser.add_argument(
        "entries", type=int, nargs="*", default=[10_044, 100_000], help="sizes of the tree"
    )
    sizes = parser.parse_args().entries
    with tempfile.TemporaryDirectory(prefix="bench-info") as directory:
        info_clients.measure(Path(directory), min(sizes), provide=_write, row=_row)
    for entries in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-info") as directory:
            _measure(Path(directory), entries)
        with tempfile.TemporaryDirectory(prefix="bench-info") as directory:
            info_upstream.measure(
                Path(directory), entries, write=write, count_changed=_count_changed, row=_row
            )


def _row(case: str, value: float, unit: str) -> None:
    shown = value if isinstance(value, int) else f"{value:.3g}"
    print(f"info {case} {shown} {unit}", flush=True)


def text(entries: int, title: str = "image") -> Iterator[str]:
    """Yield the LDIF of a cloud; a title marks the images that change."""
    yield cloud()
    for number in range(entries - 6):  # the others are those of `cloud`, and three containers
        name = f"http://schemas.openstack.org/template/os#{number:08}-89ab-cdef-0123-456789abcdef"
        kind = title if number < CHANGED else "image"
        yield _IMAGE.format(
            name=name, service=SERVICE, vo=number % 20, number=number, title=f"{kind} {number}"
        )


def _write(bdii: Bdii, entries: int, title: str = "image") -> None:
    write(bdii.directory / "cloud.ldif", entries, title)


def write(path: Path, entries: int, title: str) -> None:
    with path.with_suffix(".new").open("w") as file:
        file.writelines(text(entries, title))
    path.with_suffix(".new").rename(path)


def _measure(directory: Path, entries: int) -> None:
    bdii = Bdii(directory / "resource", {"BDII_SOURCE_LIMIT": 500})
    _write(bdii, entries)
    bdii.script(f"exec cat {bdii.directory}/cloud.ldif")
    begin = time.monotonic()
    with running(bdii):
        _wait(bdii, lambda: _total(bdii) == entries)
        first = time.monotonic() - begin
        loading = _slapadd(bdii, directory / "loaded")
        _row(f"{entries} first publication", first, "s")
        _row(f"{entries} slapadd of the same file", loading, "s")
        _row(f"{entries} first publication", first / loading, "times slapadd")
        _row(f"{entries} memory at the first load", _memory(bdii), "MiB")
        _unchanged(bdii, entries)
        _changes(directory, bdii, entries)
        _row(f"{entries} memory after a change", _memory(bdii), "MiB")
        bdii.script("exit 1")
        _cycles(bdii, 3)
        left = len(_csns(bdii))
        _row(f"{entries} entries left after a provider fails", left, "entries")
    begin = time.monotonic()
    with running(bdii):
        bdii.wait_for(lambda: bool(bdii.entries(SERVICE, "1.1")), seconds=600)
        _row(f"{entries} restart", time.monotonic() - begin, "s")
        _cycles(bdii, 2)
        _row(f"{entries} memory after a restart", _memory(bdii), "MiB")


def _slapadd(bdii: Bdii, directory: Path) -> float:
    """Return the seconds in which slapadd loads what the BDII has loaded."""
    made = next((bdii.directory / "state/db").iterdir())
    text = (made / "slapd.conf").read_text().replace(str(made), str(directory))
    (directory / "glue").mkdir(parents=True)
    (directory / "infosys").mkdir()
    shutil.copy(made / "infosys.schema", directory)
    (directory / "slapd.conf").write_text(text)
    dump = directory / "all.ldif"
    with dump.open("w") as file:
        file.write("dn: o=glue\nobjectClass: organization\no: glue\n\n")
        file.write((bdii.directory / "cloud.ldif").read_text())
    command = ["/usr/sbin/slapd", "-f", str(directory / "slapd.conf"), "-b", "o=glue", "-q"]
    begin = time.monotonic()
    subprocess.run(["slapadd", *command[1:], "-l", str(dump)], executable=command[0], check=True)
    seconds = time.monotonic() - begin
    shutil.rmtree(directory)
    return seconds


def _unchanged(bdii: Bdii, entries: int) -> None:
    before = _csns(bdii)
    _cycles(bdii, 1)
    used = _cpu(bdii)
    _cycles(bdii, _MEASURED_CYCLES)
    _row(f"{entries} unchanged cycle", (_cpu(bdii) - used) / _MEASURED_CYCLES, "CPU s")
    written = sum(1 for dn, csn in _csns(bdii).items() if before.get(dn) != csn)
    _row(f"{entries} unchanged cycle: entries written below o=glue", written, "entries")


def _changes(directory: Path, bdii: Bdii, entries: int) -> None:
    """Measure after how long changes are visible, at the resource and at a site above it."""
    site = _site(directory, bdii)
    with running(site):
        _wait(site, lambda: _total(site) > entries)
        _row(f"{entries} site: memory at the first load", _memory(site), "MiB")
        _cycles(bdii, 1)
        _write(bdii, entries, "changed image")
        begin = time.monotonic()
        _wait(bdii, lambda: _count_changed(bdii.port) == CHANGED)
        seen = time.monotonic()
        _row(f"{entries} {CHANGED} changed: visible", seen - begin, "s")
        _wait(site, lambda: _count_changed(site.port) == CHANGED)
        _row(f"{entries} site: {CHANGED} changed: visible", time.monotonic() - seen, "s")
        # after a change the tree is read once more, when it has a version again
        _cycles(site, 2)
        used = _cpu(site)
        _cycles(site, _MEASURED_CYCLES)
        _row(f"{entries} site: unchanged cycle", (_cpu(site) - used) / _MEASURED_CYCLES, "CPU s")
        _row(f"{entries} site: memory after a change", _memory(site), "MiB")


def _site(directory: Path, below: Bdii) -> Bdii:
    files = directory / "files"
    files.mkdir()
    (files / "site.cfg").write_text(
        "SITE_NAME = TEST-SITE\nSITE_EMAIL = a@example.org\n"
        "SITE_SECURITY_EMAIL = b@example.org\nSITE_SUPPORT_EMAIL = c@example.org\n"
    )
    (files / "defaults.conf").write_text("SITE_NAME=TEST-SITE\nSITE_BDII_HOST=localhost\n")
    (files / "urls.conf").write_text(
        f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    )
    settings = {
        "BDII_SITE_CFG": files / "site.cfg",
        "BDII_SITE_DEFAULTS": files / "defaults.conf",
        "BDII_SITE_URLS": files / "urls.conf",
        "BDII_SOURCE_LIMIT": 500,
        "BDII_SITE_TIMEOUT": 300,
    }
    return Bdii(directory / "site", settings)


def _count_changed(port: int) -> int:
    """Return the number of changed images; a client asks for them by an index."""
    done = subprocess.run(
        [
            *("ldapsearch", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{port}", "-b", "o=glue"),
            "(|"
            + "".join(
                "(GLUE2ApplicationEnvironmentID=http://schemas.openstack.org/template/os"
                f"#{number:08}-89ab-cdef-0123-456789abcdef)"
                for number in range(CHANGED)
            )
            + ")",
            "GLUE2ApplicationEnvironmentAppName",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.count("AppName: changed image")


def _total(bdii: Bdii) -> int:
    """Return how many entries the BDII says that it serves."""
    name = "Hostname=localhost,o=infosys"
    return int(bdii.entries(name)[name]["TotalEntries"][0])


def _csns(bdii: Bdii) -> dict[str, list[str]]:
    found = search(bdii.port, "o=glue", "entryCSN")
    return {dn: attributes["entryCSN"] for dn, attributes in found.items()}


def _cycles(bdii: Bdii, count: int) -> None:
    """Wait for cycles that begin by themselves: a reload would read all answers anew."""
    before = bdii.cycles
    _wait(bdii, lambda: bdii.cycles >= before + count)


def _wait(bdii: Bdii, is_true: Callable[[], bool]) -> None:
    bdii.wait_for(is_true, seconds=600)


def _engines(bdii: Bdii) -> list[int]:
    """Return the processes of the program: its own, and children that run the same program."""
    assert bdii.process is not None
    found = [bdii.process.pid]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            is_ours = b"bdii-update" in (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == bdii.process.pid and is_ours:
            found.append(int(path.name))
    return found


def _memory(bdii: Bdii) -> float:
    return max(usage.high_water_mark(process) for process in _engines(bdii))


def _cpu(bdii: Bdii) -> float:
    return sum(usage.cpu_of(process) for process in _engines(bdii))


if __name__ == "__main__":
    main()
