"""The commands of README.md: fenced blocks with a word behind their language.

```sh built        on the host, as root; `firsthour` runs them as they stand there
```shell accounts  on a machine with an administrator's login to the cloud
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"^( *)```(sh|shell) ([a-z]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"(?<![\w$])[A-Z][A-Z]+(?:-[A-Z]+)*(?![\w=-])")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of commands: which step it is, and where it is typed."""

    name: str
    is_on_host: bool
    text: str

    def commands(self) -> list[str]:
        """Return what a person types and sends off, one after the other; a loop is one of them."""
        found: list[str] = []
        depth = 0
        for line in self.text.splitlines():
            if depth or (found and found[-1].endswith("\\")):
                found[-1] += f"\n{line}"
            else:
                found.append(line)
            depth += bool(re.match(r"\s*for .* do$", line)) - (line.strip() == "done")
        return found

    def lines(self) -> int:
        """Return how many lines a person types."""
        return len(self.text.splitlines())

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """Return the commands with values for the words in capitals.

        Raises:
            KeyError: a word has no value
        """
        return [
            _PLACEHOLDER.sub(lambda match: values[match[0]], command) for command in self.commands()
        ]

    def placeholders(self) -> set[str]:
        """Return the words that a person replaces."""
        return set(_PLACEHOLDER.findall(self.text))


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a text in their order."""
    for match in _BLOCK.finditer(text):
        yield Block(match[3], match[2] == "sh", textwrap.dedent(match[4]))
