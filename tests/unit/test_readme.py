"""README.md: its commands exist, and its links lead to pages."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from appliance.admin import command
from appliance.core.run import cli
from tests.bench import firsthour, readme

TOP = readme.README.parent
TEXT = readme.README.read_text()
BLOCKS = {block.name: block for block in readme.blocks(TEXT)}
ON_HOST = [
    (block.name, line)
    for block in BLOCKS.values()
    if block.is_on_host
    for line in block.filled(firsthour.values())
]


def test_every_block_of_commands_is_known_to_the_bench() -> None:
    """A block without a word behind its language would be typed by nobody but the reader."""
    assert list(BLOCKS) == ["accounts", "built", "bundle", "configure", "look", "start"]
    assert len(re.findall(r"^```(?:sh|shell|bash|console)\b", TEXT, re.MULTILINE)) == len(BLOCKS)


@pytest.mark.parametrize(("block", "line"), ON_HOST)
def test_a_command_is_one_that_there_is(block: str, line: str) -> None:
    """Verbs and options of our programs can be parsed; those of scripts are in their help."""
    assert block
    for part in line.split(" && "):
        words = shlex.split(part)
        if words[0] == "appliance":
            cli.parser(command.program()).parse_args(words[1:])
        elif words[0].endswith(("/scripts/build", "/install")):
            script = TOP / "scripts" / Path(words[0]).name
            shown = subprocess.run(
                [script, "--help"], capture_output=True, text=True, check=True
            ).stdout
            assert all(word in shown for word in words if word.startswith("--")), shown
        else:
            assert words[0] in {"apt-get", "git", "tar"}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_good_shell(name: str) -> None:
    subprocess.run(["bash", "-n"], input=BLOCKS[name].text, text=True, check=True)


def test_a_person_types_half_of_what_november_asked_for() -> None:
    """Commands and values, counted by the same rule; what was to be guessed then is written now."""
    for way in ("built", "bundle"):
        commands, typed, _ = firsthour.counted(way)
        assert 2 * commands <= firsthour.NOVEMBER_COMMANDS, (way, commands)
        assert 2 * typed <= firsthour.NOVEMBER_EDITS, (way, typed)


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (TOP / target).exists(), target
