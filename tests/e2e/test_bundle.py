"""The bundle: complete, verified by openssl and coreutils, made without network the second time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path

import pytest

from deploy import bundle, contents, images
from deploy.dockerd import DockerDaemon
from tests.e2e.shipped import Shipped

pytestmark = [
    pytest.mark.container,
    pytest.mark.unnamed,
    pytest.mark.timeout(900),  # images are built first
]

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shipped(engine: DockerDaemon) -> Shipped:
    return Shipped.of_checkout(engine)


@pytest.fixture(scope="module")
def made(shipped: Shipped) -> Path:
    return shipped.bundle


def test_the_sums_are_of_all_files_and_the_signature_is_of_the_sums(
    made: Path, tmp_path: Path
) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=made, check=True
    )
    listed = {line.split("  ", 1)[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    present = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert present - listed == {"SHA256SUMS", "SHA256SUMS.sig"}
    verify = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "signing-key.pem",
        "-sigfile",
        "SHA256SUMS.sig",
    ]
    subprocess.run(
        [*verify, "-rawin", "-in", "SHA256SUMS"], cwd=made, check=True, capture_output=True
    )
    altered = tmp_path / "SHA256SUMS"
    altered.write_text((made / "SHA256SUMS").read_text() + "0" * 64 + "  another\n")
    refused = subprocess.run(
        [*verify, "-rawin", "-in", altered], cwd=made, check=False, capture_output=True
    )
    assert refused.returncode != 0


def test_the_images_of_the_bundle_are_those_that_the_engine_runs(
    engine: DockerDaemon, made: Path
) -> None:
    """R01: loaded from the bundle, never pulled; images.lock names service, tag and id."""
    lines = [
        line.split()
        for line in (made / "images.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert [line[0] for line in lines] == list(contents.IMAGES)
    with tarfile.open(made / "images/images.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        held = {image["RepoTags"][0]: Path(image["Config"]).stem for image in json.load(manifest)}
    for _, tag, identifier in lines:
        assert identifier == f"sha256:{held[tag]}"
        assert (
            engine.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()
            == identifier
        )
    # layers that several images share are there once
    assert (made / "images/images.tar").stat().st_size <= 450 * 10**6


@pytest.mark.parametrize("name", contents.IMAGES)
def test_the_bill_of_materials_is_what_dpkg_and_python_say_inside(
    engine: DockerDaemon, made: Path, name: str
) -> None:
    document = json.loads((made / f"sbom/{name}.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    found = {component["purl"].partition("?")[0] for component in document["components"]}
    script = r"""
        dpkg-query -W -f 'pkg:deb/debian/${Package}@${Version}\n'
        for note in /var/lib/dpkg/status.d/*; do
            [ -e $note ] || continue
            sed -n 's/^Package: /pkg:deb\/debian\//p; s/^Version: /@/p' $note | paste -sd '\0'
        done
        python -c 'from importlib.metadata import distributions as found
for one in found():
    print(f"pkg:pypi/{one.name.lower()}@{one.version}")'
    """
    shown = engine.docker(
        "run", "--rm", "--network", "none", images.tag(name), "bash", "-c", script
    ).stdout
    inside = {line.replace("_", "-") if "pypi" in line else line for line in shown.split()}
    encoded = {
        re.sub(r"[+:~]", lambda match: f"%{ord(match[0]):02X}", line.partition("@")[2])
        for line in inside
    }
    assert {purl.partition("@")[0] for purl in found} == {line.partition("@")[0] for line in inside}
    assert {purl.partition("@")[2].replace("~", "%7E") for purl in found} == encoded


@pytest.mark.parametrize("python", images.PYTHONS)
def test_the_host_s_programs_are_there_for_each_python(
    made: Path, tmp_path: Path, python: str
) -> None:
    """F-H3: for Debian 12, Ubuntu 24.04 and Debian 13, pip finds all wheels in the bundle."""
    options = (
        "--no-index",
        "--find-links",
        made / "wheels",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    )
    platforms = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64")
    target = ("--implementation", "cp", "--python-version", python, *platforms)
    pip = [
        TOP / ".cache/env/uv/bin/python",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ]
    command = [
        *pip,
        *options,
        *target,
        "--dest",
        tmp_path,
        "--requirement",
        made / "requirements.txt",
    ]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    assert list(tmp_path.glob(f"pyyaml-*-cp{python.replace('.', '')}-*.whl"))


def test_the_bundle_lists_its_debian_packages_and_says_of_which_day(
    engine: DockerDaemon, made: Path
) -> None:
    """F-H8: as dpkg reports inside the images; no package is younger than the list."""
    head, *lines = (made / "debian-packages.txt").read_text().splitlines()
    script = r"""
        dpkg-query -W -f '${Package} ${Version} ${Architecture}\n'
        for note in /var/lib/dpkg/status.d/*; do
            [ -e $note ] || continue
            awk -F': ' '/^Package:/ {p=$2} /^Version:/ {v=$2} /^Architecture:/ {a=$2}
                END {print p, v, a}' $note
        done
        true
    """
    inside = {
        line
        for name in contents.IMAGES
        for line in engine.docker(
            "run", "--rm", "--network", "none", images.tag(name), "bash", "-c", script
        ).stdout.splitlines()
    }
    assert {line.rpartition(" ")[0] for line in lines} == inside
    day = date.fromisoformat(head.split(":")[0].split()[-1])
    assert all(date(2015, 1, 1) < date.fromisoformat(line.split()[-1]) <= day for line in lines)
    assert f"# Debian packages of {day}\n" in (made / "images.lock").read_text()


def test_the_host_s_wheels_are_those_of_its_lock(made: Path, tmp_path: Path) -> None:
    """Installed offline into a new environment, with hashes, as the installer does it."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "host"], check=True)
    pip: list[str | Path] = [
        tmp_path / "host/bin/pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-cache-dir",
    ]
    found: list[str | Path] = ["--find-links", made / "wheels"]
    subprocess.run(
        [*pip, *found, "--require-hashes", "--requirement", made / "requirements.txt"], check=True
    )
    subprocess.run(
        [*pip, "--no-deps", *(made / "wheels").glob("egi_fedcloud_appliance-*.whl")], check=True
    )
    shown = subprocess.run(
        [tmp_path / "host/bin/appliance", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[-1] == images.version()


def test_all_that_is_shipped_is_in_the_bundle(made: Path) -> None:
    for name in (
        "docker-compose.yml",
        "etc/fedcloud/networks/bridge.yml",
        "etc/fedcloud/networks/host.yml",
        "etc/caso/caso.conf",
        "etc/apel/sender.cfg",
    ):
        assert (made / "files" / name).read_bytes() == (TOP / name).read_bytes()


def test_a_build_needs_no_network_once_its_parts_are_there(
    engine: DockerDaemon, made: Path
) -> None:
    assert made.exists()
    code = (
        "from pathlib import Path; from deploy import images; from deploy.dockerd import "
        "DockerDaemon; "
        f"print(len(images.build(DockerDaemon(Path({str(engine.directory)!r})), "
        "Path('.cache/deploy'))))"
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOP,
    )
    assert done.stdout.strip() == str(len(contents.IMAGES)), done.stderr


@pytest.mark.parametrize(("mode", "text", "words"), [
    (0o644, None, "others can read this key"),
    (0o600, "no key", "is not a private key"),
])  # fmt: skip
def test_a_key_that_is_none_or_is_open_signs_nothing(
    engine: DockerDaemon, shipped: Shipped, tmp_path: Path, mode: int, text: str | None, words: str
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text(text or shipped.key.read_text())
    bad.chmod(mode)
    with pytest.raises(bundle.BundleError, match=words):
        bundle.make(engine, tmp_path / "dist", key=bad)
    assert not (tmp_path / "dist").exists()
