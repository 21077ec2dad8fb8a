"""The images as they are built: what is in them, who runs in them, and that the programs start."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy import contents, images
from deploy.assemble import NEVER_IMPORTED
from deploy.dockerd import DOCKER, DockerDaemon

pytestmark = [pytest.mark.container, pytest.mark.unnamed]

TOP = Path(__file__).resolve().parents[2]
NAMES = list(contents.IMAGES)
LIMITS = (
    "--rm",
    "--read-only",
    "--network",
    "none",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
)
MEGABYTE = 10**6
# a layer without a file
_EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
_NO_BUILD_TOOLS = "gcc cc make ld as pip pip3 git curl wget apt-get gpg strip"


def run(engine: DockerDaemon, name: str, *command: str) -> str:
    """Run a command in a container of an image, restricted as the services are."""
    return engine.docker("run", *LIMITS, images.tag(name), *command).stdout


def inspect(engine: DockerDaemon, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(
        engine.docker("image", "inspect", images.tag(name)).stdout
    )
    return found[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_as_fedcloud_and_names_version_and_commit(
    engine: DockerDaemon, name: str
) -> None:
    """R01, R25, R28: images have the names egifedcloud/* and our version; nothing runs as root."""
    config = inspect(engine, name)["Config"]
    assert config["User"] == "1999:1999"
    assert config["Labels"]["org.opencontainers.image.title"] == f"egifedcloud/{name}"
    assert config["Labels"]["org.opencontainers.image.version"] == images.version()
    head = subprocess.run(
        ["git", "-C", str(TOP), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert (
        config["Labels"]["org.opencontainers.image.revision"].removesuffix("-changed")
        == head.stdout.strip()
    )
    assert run(engine, name, "id").startswith("uid=1999(fedcloud) gid=1999(fedcloud)")
    is_service = name in ("cloudbdii", "sitebdii", "cloudkeeper-os")
    assert bool(config.get("Healthcheck")) == is_service


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_key_no_build_tool_and_nothing_to_become_root_with(
    engine: DockerDaemon, name: str
) -> None:
    script = f"""
        for tool in {_NO_BUILD_TOOLS}; do command -v $tool; done
        find / -xdev \\( -name 'hostkey*' -o -name '*.key' -o -name 'id_rsa*' \\) 2>/dev/null
        find / -xdev \\( -name '*.whl' -o -name '*.deb' \\) 2>/dev/null
        find /etc /opt /usr /var -xdev -type f -perm /6000 2>/dev/null
        find /etc /opt /usr /var -xdev ! -type l -writable ! -path /var/tmp \
            ! -path '/var/lock*' 2>/dev/null
        grep -rlE 'BEGIN ([A-Z]+ )?PRIVATE KEY' /etc /opt /var 2>/dev/null | grep -v /site-packages/
        find /var/lib/apt/lists /var/cache/apt -type f ! -name lock 2>/dev/null
        find /usr/share/man /usr/share/info /usr/share/locale -type f 2>/dev/null
        find /usr/share/doc -type f ! -name copyright
        python3 -c 'import setuptools' 2>/dev/null && echo setuptools
        true
    """
    assert run(engine, name, "sh", "-c", script) == ""


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_the_libraries_of_its_locks_and_no_other(
    engine: DockerDaemon, name: str
) -> None:
    """The site's BDII, the only public program, has no client of OpenStack."""
    shown = run(
        engine, name, "python", "-c",
        "from importlib.metadata import distributions\n"
        "for found in distributions(): print(found.name.lower().replace('_', '-').replace('.', "
        "'-'), found.version)",
    )  # fmt: skip
    wanted = {"egi-fedcloud-appliance": images.version()}
    for extra in contents.IMAGES[name].extras:
        lock = (TOP / f"locks/{extra}.txt").read_text()
        wanted |= dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))
    for key in NEVER_IMPORTED:
        wanted.pop(key, None)
    assert dict(line.split() for line in shown.splitlines()) == wanted
    clients = {
        "keystoneauth1",
        "python-novaclient",
        "python-glanceclient",
        "python-keystoneclient",
    } & wanted.keys()
    assert bool(clients) == (name not in ("sitebdii", "ssm", "cloudkeeper"))


@pytest.mark.parametrize("name", NAMES)
def test_each_program_shows_its_help(engine: DockerDaemon, name: str) -> None:
    """How long that takes, `scripts/bench appliance` measures."""
    script = "for program; do $program --help >/tmp/help; head -1 /tmp/help; done"
    programs = contents.IMAGES[name].programs
    shown = engine.docker(
        "run", *LIMITS, "--tmpfs", "/tmp", images.tag(name), "bash", "-c", script, "-", *programs
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[:2] for line in shown] == [["usage:", program] for program in programs]


@pytest.mark.parametrize(
    ("name", "command"),
    [("cloudbdii", "slapd"), ("sitebdii", "slapd"), ("cloudkeeper", "qemu-img")],
)
def test_what_is_not_python_finds_its_libraries(
    engine: DockerDaemon, name: str, command: str
) -> None:
    said = engine.docker(
        "run",
        *LIMITS,
        images.tag(name),
        command,
        *(["-VVV"] if command == "slapd" else ["--version"]),
    )
    assert re.search(r"slapd 2\.5|qemu-img version", said.stdout + said.stderr)
    others = "for tool in slapd qemu-img; do command -v $tool; done; true"
    assert run(engine, name, "sh", "-c", others).split("/")[-1].strip() == command


def test_qemu_img_converts_in_its_image(engine: DockerDaemon) -> None:
    script = (
        "cd /tmp && qemu-img create -q -f raw a 1M && qemu-img convert -O qcow2 a b && "
        "qemu-img info --output=json b"
    )
    shown = engine.docker(
        "run", *LIMITS, "--tmpfs", "/tmp", images.tag("cloudkeeper"), "sh", "-c", script
    ).stdout
    assert json.loads(shown)["format"] == "qcow2"


def test_the_images_together_are_small_because_they_share_layers(engine: DockerDaemon) -> None:
    """At most 450 MB, each layer counted once, by the engine's own figures."""
    layers: dict[tuple[str, ...], int] = {}
    for name in NAMES:
        shown = engine.docker(
            "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", images.tag(name)
        ).stdout
        made = [
            line for line in reversed(shown.splitlines()) if "deploy/base" in line or "COPY" in line
        ]
        digests = inspect(engine, name)["RootFS"]["Layers"]
        changes = (
            digests
            if len(digests) == len(made)
            else [digest for digest in digests if digest != _EMPTY]
        )
        assert len(changes) == len(made), shown
        chain: tuple[str, ...] = ()
        for digest, line in zip(changes, made, strict=True):
            chain = (*chain, digest)
            layers[chain] = int(line.split()[0])
    assert 200 * MEGABYTE < sum(layers.values()) <= 450 * MEGABYTE
    assert len({chain[0] for chain in layers}) == 1
    assert (
        len({chain for chain in layers if len(chain) == 2}) == 2
    )  # libraries of most, and the server of the site's BDII


@pytest.mark.parametrize("name", NAMES)
def test_a_program_meets_a_missing_configuration_with_words(
    engine: DockerDaemon, name: str
) -> None:
    """On a read-only root without any mount: one clear line and no traceback."""
    command = inspect(engine, name)["Config"]["Cmd"]
    done = engine.docker("run", *LIMITS, images.tag(name), *command, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"/etc/[a-z/-]+", done.stderr)


@pytest.mark.matrix
def test_the_base_is_the_same_octets_when_it_is_made_again(tmp_path: Path) -> None:
    """Byte for byte, as long as the archive offers the same versions."""
    kept = images.fetch_base(TOP / ".cache/deploy").directory
    again = images.fetch_base(tmp_path).directory
    assert (again / "base.tar").read_bytes() == (kept / "base.tar").read_bytes()


@pytest.mark.matrix
def test_an_image_that_is_built_again_has_the_same_layers(engine: DockerDaemon) -> None:
    """Without the builder's cache; only the description of an image has the time of its build."""
    base = engine.docker(
        "images", "--format", "{{.Repository}}:{{.Tag}}", "egifedcloud/base"
    ).stdout.split()[0]
    arguments = [f"--build-arg=BASE={base}", f"--build-arg=EPOCH={images.epoch()}"]
    found = []
    for _ in range(2):
        command = [
            "build",
            "--no-cache",
            "--quiet",
            "--network",
            "none",
            "--target",
            "cloudbdii",
            *arguments,
        ]
        made = engine.run(
            [DOCKER, *command, TOP / ".cache/deploy/context"], environment={"DOCKER_BUILDKIT": "1"}
        ).stdout.strip()
        found.append(
            json.loads(engine.docker("image", "inspect", made).stdout)[0]["RootFS"]["Layers"]
        )
        engine.docker("rmi", made)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_shared_object_of_an_image_finds_what_it_is_linked_to(
    engine: DockerDaemon, name: str
) -> None:
    script = """
        {
            for program in slapd ldapsearch qemu-img; do command -v $program; done
            find /opt /usr/lib/ldap -name '*.so*' 2>/dev/null
        } | xargs ldd | grep 'not found'
        true
    """
    assert run(engine, name, "bash", "-c", script) == ""


def test_a_tag_that_leads_elsewhere_or_nowhere_is_noticed(engine: DockerDaemon) -> None:
    """The build asks this before it believes that its images are there."""
    ids = [
        engine.docker("image", "inspect", "--format", "{{.Id}}", images.tag(name)).stdout.strip()
        for name in ("caso", "ssm")
    ]
    here = {f"tags-of-a-test:{number}": identifier for number, identifier in enumerate(ids)}
    try:
        for tag, identifier in here.items():
            engine.docker("tag", identifier, tag)
        assert images.lead_there(engine, here)
        engine.docker("tag", ids[0], "tags-of-a-test:1")
        assert not images.lead_there(engine, here)
        engine.docker("rmi", "tags-of-a-test:1")
        assert not images.lead_there(engine, here)
    finally:
        engine.docker("rmi", *here, check=False)
