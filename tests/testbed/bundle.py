"""A bundle of this checkout like one of `scripts/build`, made in seconds with tiny images.

Its files and its wheel are real; images have one layer.

What is not there is what takes minutes: the libraries of the host's environment and the services'
images.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from appliance.core import state_tables
from appliance.core.version import __version__

TOP = Path(__file__).resolve().parents[2]
FOLDERS = ("bin", "cron.d", "deploy/native", "etc", "systemd")
PACKAGES = ("appliance", "bdii", "caso", "cloud_info_provider", "cloudkeeper", "ssm")
HOST = ("appliance",)
"""What a host with containers uses of them: a wheel of it alone is installed faster."""


def make(
    directory: Path,
    *,
    version: str = __version__,
    key: Path | None = None,
    packages: Sequence[str] = PACKAGES,
) -> Path:
    """Make a bundle of ``version`` in ``directory``, signed with the private ``key`` if any."""
    bundle = directory / f"fedcloud-appliance-{version}"
    files = bundle / "files"
    for folder in FOLDERS:
        shutil.copytree(TOP / folder, files / Path(folder).name)
    compose = TOP / "docker-compose.yml"
    (files / "docker-compose.yml").write_bytes(
        compose.read_bytes() if compose.exists() else b"services: {}\n"
    )
    (bundle / state_tables.BUNDLE_FILE).write_text(state_tables.text())
    (bundle / "wheels").mkdir()
    path = bundle / "wheels" / f"egi_fedcloud_appliance-{version}-py3-none-any.whl"
    wheel(path, version, packages)
    for name in ("requirements.txt", "requirements-all.txt"):
        (bundle / name).write_text("")
    (bundle / "images").mkdir()
    tag = f"egifedcloud/caso:{version}"
    identifier = image(bundle / "images" / "caso.tar", tag)
    (bundle / "images.lock").write_text(f"# service tag id\ncaso {tag} {identifier}\n")
    seal(bundle, key=key)
    return bundle


def seal(bundle: Path, *, key: Path | None = None) -> None:
    """Write the checksums of what is in a bundle, and sign them."""
    (bundle / "SHA256SUMS").unlink(missing_ok=True)
    (bundle / "SHA256SUMS.sig").unlink(missing_ok=True)
    names = sorted(
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()
    )
    command = ["sha256sum", "--", *names]
    sums = subprocess.run(command, cwd=bundle, capture_output=True, check=True).stdout
    (bundle / "SHA256SUMS").write_bytes(sums)
    if key is not None:
        sign = [
            "openssl",
            "pkeyutl",
            "-sign",
            "-inkey",
            str(key),
            "-rawin",
            "-in",
            "SHA256SUMS",
            "-out",
            "SHA256SUMS.sig",
        ]
        subprocess.run(sign, cwd=bundle, check=True)


def make_key(directory: Path, name: str = "key") -> tuple[Path, Path]:
    """Make a key to sign with; returns the private and the public one."""
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def image(path: Path, tag: str, *, about: str = "") -> str:
    """Write an image of one file as ``docker save`` does; return its id, from ``about`` or tag."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, "about", (about or tag).encode())
    content = layer.getvalue()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]}
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    ).encode()
    identifier = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{identifier}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", content)
        _add(archive, f"{identifier}.json", config)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{identifier}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def wheel(path: Path, version: str, packages: Sequence[str] = PACKAGES) -> None:
    """Write the wheel of this checkout as that of a version."""
    about = f"egi_fedcloud_appliance-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        names = []
        for package in packages:
            for source in sorted((TOP / package).rglob("*.py")):
                names.append(source.relative_to(TOP).as_posix())
                text = source.read_text()
                if names[-1] == "appliance/core/version.py":
                    text = text.replace(__version__, version)
                archive.writestr(names[-1], text)
        for name, text in (
            (
                "METADATA",
                f"Metadata-Version: 2.1\nName: egi-fedcloud-appliance\nVersion: {version}\n",
            ),
            (
                "WHEEL",
                "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            ("entry_points.txt", "[console_scripts]\nappliance = appliance.admin.command:main\n"),
        ):
            names.append(f"{about}/{name}")
            archive.writestr(names[-1], text)
        archive.writestr(
            f"{about}/RECORD", "".join(f"{name},,\n" for name in [*names, f"{about}/RECORD"])
        )
