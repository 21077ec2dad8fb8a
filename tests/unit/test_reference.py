"""docs/reference is what the programs read and take: it is generated again here and compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generator import flags, options, pages

TOP = Path(__file__).parents[2]
DIRECTORY = TOP / "docs/reference"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages.render()


@pytest.fixture(scope="module")
def files() -> dict[str, options.ConfigurationFile]:
    return options.configuration_files()


def test_the_committed_pages_are_the_generated_ones(made: dict[str, str]) -> None:
    """After a change of an option, a flag or its help: scripts/reference."""
    committed = {path.name: path.read_text() for path in DIRECTORY.glob("*.md")}
    assert committed == made, "run scripts/reference and commit docs/reference"


def test_an_option_that_nobody_describes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options._Descriptions, "find", lambda *_: {"text": ""})
    with pytest.raises(options.DescriptionError, match=r"\[DEFAULT\] site_name: no program reads"):
        options.configuration_files()


def test_every_option_of_a_shipped_file_is_in_the_reference(
    files: dict[str, options.ConfigurationFile],
) -> None:
    """The test reads the shipped texts by itself, not through the product's readers."""
    shipped = {
        "caso.conf": ("etc/caso/caso.conf", r"^#?(\w+) ="),
        "sender.cfg": ("etc/apel/sender.cfg", r"^#?(\w+):(?: |$)"),
        "receiver.cfg": ("etc/apel/receiver.cfg", r"^#?(\w+):(?: |$)"),
        "bdii.conf": ("etc/bdii/bdii.conf", r"^#?([A-Z0-9_]+)="),
        "site.cfg": ("etc/sitebdii/site.cfg", r"^(\w+) ="),
        "cloudkeeper-os.conf": ("etc/cloudkeeper/cloudkeeper-os.conf", r"^#?(\w+) ="),
        "appliance.env": ("etc/fedcloud/appliance.env", r"^#?([A-Z_]+)="),
    }
    for name, (path, pattern) in shipped.items():
        written = set(re.findall(pattern, (TOP / path).read_text(), re.MULTILINE))
        read = {one.name for rows in files[name].options.values() for one in rows}
        ignored = {option for section in files[name].ignored.values() for option in section}
        assert written - {"OTHERINFO"} <= read | ignored, name


def test_every_program_of_the_distribution_is_on_one_page() -> None:
    listed = [name for page in pages.PAGES.values() for name in page.programs]
    assert sorted(listed) == sorted(flags.commands())


def test_figures_of_one_option_by_hand(files: dict[str, options.ConfigurationFile]) -> None:
    """One row of each kind, with values that were looked up in the specifications."""
    rows = {
        (name, section, one.name): (one.kind, one.default, one.upstream)
        for name, file in files.items()
        for section, several in file.options.items()
        for one in several
    }
    assert rows["caso.conf", "DEFAULT", "projects"] == (
        "list, separated by commas",
        "none",
        "same; also `tenants`",
    )
    assert rows["bdii.conf", "DEFAULT", "BDII_READ_TIMEOUT"] == (
        "1 or more (seconds)",
        "`300`",
        "same",
    )
    assert rows["sender.cfg", "messaging", "max_attempts"] == ("2 to 100", "`3`", "ours")
    assert rows["appliance.env", "DEFAULT", "FEDCLOUD_MEMORY_JOB"][1] == "`1g`"
    assert "BDII_ARCHIVE_SIZE" in files["bdii.conf"].ignored["DEFAULT"]
    assert files["bdii.conf"].ignored["DEFAULT"]["BDII_ARCHIVE_SIZE"]
