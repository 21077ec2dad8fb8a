"""The shipped files of the image flow: EGI's registry as the example, and no source until asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.admin.install.plan import Action, Kind, decide, digest
from appliance.core.config import yaml_file
from cloudkeeper.backend import server
from cloudkeeper.frontend import addresses, source_settings

TOP = Path(__file__).parents[2]
ETC = TOP / "etc/cloudkeeper"
FILES = ("sources.yaml", "image-lists.conf", "registry.auth", "cloudkeeper.yml")
SOURCES = ("sources.yaml", "image-lists.conf")


def sources(text: str, path: Path) -> list[str]:
    """Return the registries and lists of a sources.yaml."""
    path.write_text(text)
    registries, lists, problems = source_settings.read(yaml_file.parse(path, text), {})
    assert problems == ()
    return [*map(str, registries), *map(str, lists)]


def test_the_shipped_files_name_the_registry_and_not_appdb(tmp_path: Path) -> None:
    texts = {name: (ETC / name).read_text() for name in FILES}
    assert not [name for name, text in texts.items() if "appdb" in text.lower()]
    assert "registry.egi.eu" in texts["image-lists.conf"]
    # Its file would have to exist.
    text = re.sub(r"^#.*signing_key.*\n", "", texts["sources.yaml"], flags=re.MULTILINE)
    uncommented = re.sub(r"^# ?(?=\S+:|  \S)", "", text, flags=re.MULTILINE)
    found = sources(uncommented, tmp_path / "sources.yaml")
    assert found[0] == "registry.egi.eu/egi_vm_images"


def test_the_shipped_files_name_no_source(tmp_path: Path) -> None:
    assert sources((ETC / "sources.yaml").read_text(), tmp_path / "sources.yaml") == []
    lines = enumerate((ETC / "image-lists.conf").read_text().splitlines(), start=1)
    numbered = [(line, number) for number, line in lines if line and not line.startswith("#")]
    assert addresses.read(numbered, path=ETC / "image-lists.conf") == ([], [])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("has_record", [True, False])
def test_an_upgrade_adds_no_source(name: str, has_record: bool) -> None:
    """A file of the site's own stays, whether or not an installation has recorded files."""
    new = (ETC / name).read_bytes()
    earlier = b"# what an earlier release had shipped\n"
    shipped = [digest(earlier)] if has_record else []
    own = b"https://lists.example.org/vo/image.list\n"
    action = decide(new, present=own, shipped=shipped, kind=Kind.CONFIGURATION)
    assert action is Action.BESIDE
    if has_record:  # an unchanged file gets the new text, which names no source either
        action = decide(new, present=earlier, shipped=shipped, kind=Kind.CONFIGURATION)
        assert action is Action.WRITE


def test_the_backend_has_time_to_end_before_it_is_killed() -> None:
    """It drains its calls; SIGKILL of the engine comes later, and that of systemd last."""

    def number(file: str, words: str) -> int:
        (found,) = re.findall(rf"{words}([0-9]+)", (TOP / file).read_text())
        return int(found)

    services = (TOP / "docker-compose.yml").read_text()
    of_backend = services[services.index("\n  cloudkeeper-os:") :]
    (grace,) = re.findall(r"stop_grace_period: ([0-9]+)s", of_backend)
    unit = number("systemd/cloudkeeper-os.service", "TimeoutStopSec=")
    native = number("deploy/native/systemd/cloudkeeper-os.service", "TimeoutStopSec=")
    drained = server.DRAIN.total_seconds()
    # To abort the uploads that are left, and for docker-compose itself.
    assert drained + 10 <= int(grace) <= unit - 10
    assert drained + 10 <= native
