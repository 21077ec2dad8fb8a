"""A host for `scripts/install` whose root directory is one of the tests': own /etc, /opt, /var;
this machine's /usr.

It is a mount namespace with another root directory. Some of its programs are stand-ins, because
there is neither systemd nor an engine. systemctl records its calls, enables units as the real one
does, and kills its caller or fails if a test chose that. docker keeps the ids of images by their
tags, as `docker load` finds them in an archive. dpkg-query reports every package as installed,
unless the host has packages of its own (tests.e2e.packages).
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
DOWN = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker "
    "daemon running?"
)
"""What docker 20.10 says when nobody listens there."""
_SYSTEMCTL = """#!/bin/sh
case "$*" in *enable*) exec /stand-ins/real-systemctl "$@";; cat*|*is-active*) exit 0;; esac
case "$*" in show*) exec cat /stand-ins/shown-$(echo "$*" | sed 's/.* //');; esac
echo "$@" >>/stand-ins/calls
[ ! -e /stand-ins/kill-$1 ] || { rm /stand-ins/kill-$1; kill -9 $PPID; }
[ ! -e /stand-ins/fail-$1 ] || { echo "Job for bdii.service failed." >&2; exit 1; }
"""
DOCKER = f"""#!/usr/bin/python3
import json, pathlib, sys, tarfile
engine, verb = pathlib.Path("/stand-ins/engine"), sys.argv[1]
if verb == "--version":
    sys.exit(print("Docker version 20.10.24+dfsg1, build 297e128"))
if not engine.is_dir():
    sys.exit("{DOWN}")
ids = engine / "ids"
held = json.loads(ids.read_text()) if ids.exists() else {{}}
if verb == "image":
    print(held.get(sys.argv[-1], ""))
    sys.exit(sys.argv[-1] not in held)
if verb == "info":
    print((engine / "place").read_text() if (engine / "place").exists() else "/var/lib/docker")
if verb == "load":
    with tarfile.open(sys.argv[-1]) as archive:
        for image in json.load(archive.extractfile("manifest.json")):
            identifier = image["Config"].removesuffix(".json")
            held |= dict.fromkeys(image["RepoTags"], "sha256:" + identifier)
    ids.write_text(json.dumps(held))
"""
_PROGRAMS = "opt/fedcloud"
COMPOSE = "#!/bin/sh\necho 1.29.2\n"
_INSTALLED = "#!/bin/sh\necho 'ii '\n"
_DIRECTORIES = (
    "dev",
    "proc",
    "usr",
    "opt",
    "tmp",
    "var/log",
    "var/tmp",
    "run/systemd/system",
    "bundles",
)
_ENTER = """
mount --bind "$1" "$1" && cd "$1" && shift
for place in dev proc usr; do mount --rbind /$place $place; done
mount --bind own-local usr/local
mount -t tmpfs tmpfs own-bin
mkdir own-bin/upper own-bin/work && cp -p stand-ins/bin/* own-bin/upper
mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=own-bin/upper,workdir=own-bin/work usr/bin
[ ! -e absent ] || xargs -I{} sh -c '[ -e stand-ins/bin/{} ] || rm -f usr/bin/{}' <absent
[ ! -e hook ] || . ./hook
[ ! -e meminfo ] || mount --bind meminfo proc/meminfo
mount --bind "$1" bundles && shift
exec chroot . "$@"
"""


class Host:
    """A host below ``root``, which has booted; an engine answers, until ``stop_engine``."""

    def __init__(self, root: Path, bundles: Path) -> None:
        self.root, self._bundles = root, bundles
        for name in _DIRECTORIES:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        shutil.copy("/etc/os-release", root / "etc/os-release")
        for name in ("own-local/bin", "own-bin", "stand-ins/bin", "stand-ins/engine"):
            (root / name).mkdir(parents=True)
        place = root / "stand-ins"
        shutil.copy("/usr/bin/systemctl", place / "real-systemctl")
        for name, text in (
            ("systemctl", _SYSTEMCTL),
            ("docker", DOCKER),
            ("dpkg-query", _INSTALLED),
        ):
            self.stand_in(name, text)
        self.stand_in("docker-compose", COMPOSE)
        shutil.copy(TOP / "scripts/install", place / "install")

    def copy(self, root: Path) -> Host:
        """Return a host with copies of all files, below ``root``."""
        subprocess.run(["cp", "-a", self.root, root], check=True)
        copied = copy.copy(self)
        copied.root = root
        return copied

    def stand_in(self, name: str, text: str) -> None:
        """Put a program into /usr/bin in place of this machine's."""
        path = self.root / "stand-ins/bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def remove(self, *names: str) -> None:
        """Have programs not be there, neither this machine's nor a stand-in."""
        for name in names:
            (self.root / "stand-ins/bin" / name).unlink(missing_ok=True)
        with (self.root / "absent").open("a") as file:
            file.writelines(f"{name}\n" for name in names)

    def keep(self, *names: str) -> None:
        """Have this machine's own program be there after all, without a stand-in."""
        path = self.root / "absent"
        path.write_text(
            "".join(f"{name}\n" for name in path.read_text().split() if name not in names)
        )

    def install(self, bundle: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/install with one of the bundles, by its name."""
        words = [
            "/stand-ins/install",
            f"/bundles/{bundle.name}",
            "--key",
            "/bundles/key.pub",
            *flags,
        ]
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=120, check=False
        )

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs something on the host."""
        command = [
            "unshare",
            "--mount",
            "sh",
            "-euc",
            _ENTER,
            "sh",
            self.root,
            self._bundles,
            *words,
        ]
        return [str(word) for word in command]

    def tell_systemctl(self, deed: str, verb: str) -> None:
        """Have systemctl ``kill`` who calls it next with a verb, or ``fail``."""
        (self.root / f"stand-ins/{deed}-{verb}").touch()

    def heal_systemctl(self, verb: str) -> None:
        """Have systemctl no longer fail."""
        (self.root / f"stand-ins/fail-{verb}").unlink()

    def stop_engine(self) -> None:
        """Have no engine answer."""
        shutil.rmtree(self.root / "stand-ins/engine")

    def called(self) -> Sequence[str]:
        """Return what systemctl was called with since this was asked last."""
        path = self.root / "stand-ins/calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


class Programs:
    """Programs of installed versions in ``directory``, for hosts that need not make them.

    Making them takes more than half of the time of an installation. The installer leaves what it
    finds under the name of a bundle's checksums.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, root: Path) -> None:
        """Keep those of the host below ``root``."""
        for place in root.glob(f"{_PROGRAMS}/[0-9]*-*"):  # not the mark of the state
            subprocess.run(["cp", "-a", place, self._directory], check=True)

    def put(self, root: Path) -> None:
        """Let the host below ``root`` have them, without any link to them."""
        (root / _PROGRAMS).mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{self._directory}/.", root / _PROGRAMS], check=True)
