"""The build of images: Debian packages, wheels by their hashes, then `docker build` offline.

Downloads are cached under the hash of their request, so that a second build needs no network:

    CACHE/base/              the base and packages, see deploy/debian.py
    CACHE/wheelhouse/HASH/   the wheels of all locks
    CACHE/context/           the context of `docker build`
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from appliance.admin.install import progress
from deploy import contents, debian
from deploy.dockerd import DOCKER, DaemonError, DockerDaemon

TOP = Path(__file__).resolve().parents[1]
HERE = TOP / "deploy"
LOCKS = TOP / "locks"
REPOSITORY = "egifedcloud"
NEWEST_INDEX = 1764547200
"""Time stamp of all files of the base, in seconds, unless SOURCE_DATE_EPOCH is set."""

EXTRAS = ("admin", "bdii", "caso", "cloud-info", "cloudkeeper", "cloudkeeper-os", "ssm")


def version() -> str:
    """Return the version of the checkout."""
    found = re.search(r'__version__ = "(.+)"', (TOP / "appliance/core/version.py").read_text())
    assert found is not None  # noqa: S101  hatchling reads the same line
    return found[1]


def commit(top: Path = TOP) -> str:
    """Return the commit of a checkout, with ``-changed`` if it has changes.

    It is ``unknown`` for a directory that is not a checkout, or without git.
    """
    words = ["git", "-c", f"safe.directory={top}", "-C", str(top)]
    try:
        found = subprocess.run(
            [*words, "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        # Untracked files count, because the wheel includes them.
        changed = subprocess.run(
            [*words, "status", "--porcelain"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "unknown"
    # The top of another repository: this tree is unpacked inside it.
    if found.returncode or Path(found.stdout.splitlines()[0]) != top:
        return "unknown"
    return found.stdout.split()[-1] + ("-changed" if changed.stdout.strip() else "")


def epoch() -> str:
    """Return the time stamp of all built files, in seconds."""
    return os.environ.get("SOURCE_DATE_EPOCH") or str(NEWEST_INDEX)


def tag(name: str) -> str:
    """Return the full name of an image of this version."""
    return f"{REPOSITORY}/{name}:{version()}"


def ensure(
    engine: DockerDaemon, cache: Path, *, fresh: bool = False, step: progress.Step = progress.silent
) -> Mapping[str, str]:
    """Build all images unless the engine has them from the same sources; return their ids by name.

    With ``fresh``, the Debian packages are those of today. One process builds at a time; others
    wait, and find the images.
    """
    with engine.building():
        return _ensure(engine, cache, fresh=fresh, step=step)


def _ensure(
    engine: DockerDaemon, cache: Path, *, fresh: bool, step: progress.Step
) -> Mapping[str, str]:
    base = fetch_base(cache, fresh=fresh, step=step)
    note, wanted = engine.directory / "images.json", _sources(base)
    try:
        made = json.loads(note.read_text())
    except (OSError, ValueError):
        made = {}
    ids: dict[str, str] = made.get("ids", {})
    if made.get("sources") == wanted and lead_there(
        engine, {tag(name): identifier for name, identifier in ids.items()}
    ):
        return ids
    ids = dict(build(engine, cache, step=step))
    note.write_text(json.dumps({"sources": wanted, "ids": ids}))
    return ids


def lead_there(engine: DockerDaemon, ids: Mapping[str, str]) -> bool:
    """Return whether each tag still stands for its image; others can move a tag."""
    shown = engine.docker("image", "inspect", "--format", "{{.Id}}", *ids, check=False)
    return shown.stdout.split() == list(ids.values())


def _sources(base: debian.Base) -> str:
    """Return a digest of all sources of images, including version and commit."""
    digest = hashlib.sha256(f"{version()} {commit()} {epoch()} {base.directory.name}".encode())
    tops = [
        "appliance",
        "bdii",
        "caso",
        "cloud_info_provider",
        "cloudkeeper",
        "ssm",
        "deploy",
        "locks",
    ]
    found = [
        path
        for top in tops
        for path in (TOP / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    for path in sorted([*found, TOP / "Dockerfile", TOP / "pyproject.toml"]):
        digest.update(
            f"{path.relative_to(TOP)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode()
        )
    return digest.hexdigest()


def build(
    engine: DockerDaemon, cache: Path, *, step: progress.Step = progress.silent
) -> Mapping[str, str]:
    """Build all images; return their ids by name.

    Raises:
        DaemonError: A download or a build fails.

    """
    base = fetch_base(cache, step=step).directory
    with step("wheels"):
        wheels = fetch_wheels(cache)
        context = lay_out(cache, base, wheels)
    ids = {}
    with step("container images") as detail:
        base_tag = _load_base(engine, base)
        for name in contents.IMAGES:
            detail(name)
            arguments = {
                "BASE": base_tag,
                "VERSION": version(),
                "COMMIT": commit(),
                "EPOCH": epoch(),
            }
            options = [
                word for key, text in arguments.items() for word in ("--build-arg", f"{key}={text}")
            ]
            command = [
                DOCKER,
                "build",
                "--quiet",
                "--network",
                "none",
                "--target",
                name,
                "--tag",
                tag(name),
                *options,
            ]
            engine.run([*command, context], environment={"DOCKER_BUILDKIT": "1"})
            ids[name] = engine.docker(
                "image", "inspect", "--format", "{{.Id}}", tag(name)
            ).stdout.strip()
    return ids


def fetch_base(
    cache: Path, *, fresh: bool = False, step: progress.Step = progress.silent
) -> debian.Base:
    """Return the base and the packages, from the cache or from Debian's archive.

    With ``fresh``, the differences to the last build are printed.
    """
    asked = [HERE / "base", HERE / "package-list", *sorted((HERE / "packages").iterdir())]
    recipe = [epoch().encode(), *(path.read_bytes() for path in asked)]

    def make(directory: Path) -> None:
        with step("Debian packages of the images"):
            quietly([HERE / "base", directory], {"SOURCE_DATE_EPOCH": epoch()})

    base, changes = debian.fetch(cache / "base", recipe, make, fresh=fresh)
    if fresh:
        count = len(changes) or "no"
        print(
            f"Debian packages of {base.archive}: {count} changes since the last build", flush=True
        )
        for line in changes:
            print(f"  {line}", flush=True)
    return base


PYTHONS = ("3.11", "3.12", "3.13")
"""Python of Debian 12, Ubuntu 24.04 and Debian 13; RHEL 9 has packages of the first two."""
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

_DOWNLOAD: tuple[str | Path, ...] = (
    *(TOP / ".cache/env/uv/bin/python", "-m", "pip", "download", "--require-hashes"),
    *("--only-binary=:all:", "--no-deps", "--disable-pip-version-check", "--quiet"),
)


def fetch_wheels(cache: Path) -> Path:
    """Return the directory with all wheels in the locks of the programs and of the build."""
    locks = [LOCKS / f"{name}.txt" for name in (*EXTRAS, "build")]
    wanted = contents.everything(locks)

    def make(directory: Path) -> None:
        directory.mkdir()
        requirements = directory / "requirements.txt"
        requirements.write_text(wanted)
        quietly([*_DOWNLOAD, "--dest", directory, "--requirement", requirements])

    return kept(cache / "wheelhouse", [wanted.encode()], make)


def fetch_host_wheels(cache: Path, lock: Path) -> Path:
    """Return the directory with the wheels of a lock for each of `PYTHONS`.

    Each download reads the index pages of its packages again. So wheels for every Python come from
    the wheelhouse of the images, which pip has verified, and those of the stable ABI from the first
    download.
    """
    wanted = lock.read_text()

    def make(directory: Path) -> None:
        directory.mkdir()
        required = contents.read_lock(lock)
        for wheel in fetch_wheels(cache).glob("*-py*3-none-any.whl"):
            if _package(wheel) in required:
                shutil.copy(wheel, directory)
        requirements = directory / "requirements.txt"
        platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
        for python in PYTHONS:
            there = {_package(wheel) for wheel in directory.glob("*.whl") if _fits_later(wheel)}
            rest = [text for name, text in required.items() if name not in there]
            requirements.write_text("".join(rest))
            words = [*platforms, "--implementation", "cp", "--python-version", python]
            words += ["--dest", str(directory), "--requirement", str(requirements)]
            quietly([*_DOWNLOAD, *words])

    return kept(
        cache / "host-wheels", [wanted.encode(), " ".join((*PYTHONS, *_PLATFORMS)).encode()], make
    )


def _package(wheel: Path) -> str:
    """Return the name that locks have for the package of a wheel."""
    return re.sub("[-_.]+", "-", wheel.name.partition("-")[0]).lower()


def _fits_later(wheel: Path) -> bool:
    """Check whether a wheel for one of `PYTHONS` is one for those after it."""
    return wheel.name.split("-")[-2] in {"abi3", "none"}


def build_wheel(wheels: Path, directory: Path) -> None:
    """Build the wheel of this distribution in a directory, with the tools in the wheelhouse."""
    uv: list[str | Path] = [
        TOP / ".cache/env/uv/bin/uv",
        "build",
        "--quiet",
        "--wheel",
        "--offline",
        "--no-index",
    ]
    with tempfile.TemporaryDirectory() as out:
        quietly([*uv, "--find-links", wheels, "--out-dir", out, TOP])
        (wheel,) = Path(out).glob("*.whl")
        shutil.copy(wheel, directory)


def lay_out(cache: Path, base: Path, wheels: Path) -> Path:
    """Make the context of `docker build`; return its directory."""
    context = cache / "context"
    shutil.rmtree(context, ignore_errors=True)
    for directory in ("wheelhouse", "requirements", "own", "debs", "deploy"):
        (context / directory).mkdir(parents=True)
    for wheel in wheels.glob("*.whl"):
        (context / "wheelhouse" / wheel.name).hardlink_to(wheel)
    for name in ("slapd", "qemu"):
        shutil.copytree(base / name, context / "debs" / name)
    for name, text in contents.layers(LOCKS).items():
        if text:
            (context / "requirements" / f"{name}.txt").write_text(text)
    build_wheel(wheels, context / "own")
    for name in ("grpc-answers", "provider", "unpack"):
        shutil.copy(HERE / name, context)
    for name in ("__init__.py", "assemble.py", "contents.py"):
        shutil.copy(HERE / name, context / "deploy")
    shutil.copy(TOP / "Dockerfile", context)
    return context


def quietly(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    stdin: str = "",
) -> None:
    """Run a program without showing its output.

    Raises:
        DaemonError: It failed; the message has the end of its output.

    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, input=stdin,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-2000:]
        raise DaemonError(f"{Path(command[0]).name}: status {done.returncode}: {words}")


def kept(directory: Path, asked: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """Return the directory cached for a request; make it atomically if it is missing."""
    found = directory / debian.digest(asked)
    if not found.exists():
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = directory / f".{found.name}.{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            make(unfinished)
            try:
                unfinished.rename(found)
            except OSError:
                if not found.exists():  # another process has made the same meanwhile
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return found


def _load_base(engine: DockerDaemon, base: Path) -> str:
    """Load the base as an image whose id depends only on its content; return its tag."""
    layer = base / "base.tar"
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{REPOSITORY}/base:{digest[:16]}"
    if engine.docker("image", "inspect", name, check=False).returncode == 0:
        return name
    when = datetime.fromtimestamp(int(epoch()), UTC).isoformat()
    # Written by hand, because `docker import` adds the time of the import to the id.
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": when,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": when, "created_by": "deploy/base"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    process = subprocess.Popen(
        [DOCKER, "load", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=engine.environment,
    )
    assert process.stdin is not None  # noqa: S101
    with process.stdin, tarfile.open(mode="w|", fileobj=process.stdin) as archive:
        for member, value in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archive.add(layer, "layer.tar")
    if process.wait():
        raise DaemonError(f"docker load: status {process.returncode}")
    return name


def main() -> int:
    """Build missing images in a private engine; print the images and their ids."""
    engine = DockerDaemon(TOP / ".cache/docker")
    with engine.used():
        for name, identifier in ensure(engine, TOP / ".cache/deploy", step=progress.step).items():
            print(tag(name), identifier)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DaemonError as error:
        sys.exit(f"images: {error}")
