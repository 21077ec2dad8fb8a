"""The answers in a machine's user data: at which line of it each is, or why none came.

User data is a document that the cloud hands to the machine. cloud-init writes the files that it
lists in ``write_files``, the answers among them. An administrator wrote the document and not the
file, so a message about the answers names the line of the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.core import files
from appliance.core.config import yaml_file
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

if TYPE_CHECKING:
    import yaml

ANSWERS = "/etc/fedcloud/answers.yaml"
NAME = Path("user data")
"""Stands for the document where a message names a file."""
_DOCUMENT = "/var/lib/cloud/instance/user-data.txt"
_SOURCE = "/var/lib/cloud/instance/datasource"
_NO_SOURCE = "DataSourceNone"
_LIMIT = 2**20  # bytes; the metadata service of Nova passes 64 KiB
_CONFIG = "#cloud-config"
_OTHER_FORMS = (
    *("#!", "#include", "#part-handler", "#cloud-boothook", "## template:", "Content-Type:"),
    *("MIME-Version:", "From ", "\x1f\x8b"),
)
"""How user data begins that may hold several documents; cloud-init, "User data formats"."""
_BY_HAND = "log in and run appliance configure, or boot with user data that has the answers"


@dataclass(frozen=True, slots=True)
class UserData:
    """The user data of the machine; ``text`` is empty without any."""

    text: str
    has_source: bool
    """Whether cloud-init found a metadata service or a drive with user data."""

    @classmethod
    def read(cls, layout: Layout) -> UserData:
        """Read what cloud-init has kept of it."""
        try:
            data = files.read_regular(layout.path(_DOCUMENT), limit=_LIMIT, follow=True)
        except OSError:
            data = b""
        return cls(data.decode("utf-8", "replace"), _has_source(layout.path(_SOURCE)))

    def absence(self) -> Problem | None:
        """Return what is wrong in the document, if it gave no answers; None if it is empty."""
        if not self.text.strip():
            return None
        if self.text.startswith(_OTHER_FORMS):
            words = f"none of its parts writes {ANSWERS}; {_BY_HAND}"
            return Problem(NAME, 0, "", words)
        if not self.text.startswith(_CONFIG):
            return Problem(NAME, 1, "", f"cloud-init ignores it; begin it with the line {_CONFIG}")
        try:
            node = self._content()
        except ConfigurationError as error:
            return error.problems[0]
        if node is None:
            return Problem(NAME, 0, "write_files", f"has no entry {ANSWERS}; {_BY_HAND}")
        words = "cloud-init did not write this file; see /var/log/cloud-init.log"
        return Problem(NAME, node.start_mark.line + 1, "write_files", words)

    def located(self, problem: Problem, answers: Path) -> Problem:
        """Return a problem of the answers with the line of the document, if that is known."""
        if problem.path != answers or not problem.line:
            return problem
        try:
            node = self._content() if self.text.startswith(_CONFIG) else None
        except ConfigurationError:
            node = None
        # Only the lines of a literal block are those of the file, one by one. The mark is at its
        # indicator, in the line before them.
        if node is None or node.style != "|":
            return problem
        return replace(problem, path=NAME, line=node.start_mark.line + 1 + problem.line)

    def _content(self) -> yaml.ScalarNode | None:
        """Return the content of the answers in the document.

        Raises:
            ConfigurationError: The document is not YAML.

        """
        import yaml  # noqa: PLC0415  start-up is a cost

        try:
            root: Any = yaml.compose(
                self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            )
        except yaml.YAMLError as error:
            raise ConfigurationError([yaml_file.problem(NAME, self.text, error)]) from error
        for entry in _items(_value(root, "write_files")):
            path, content = _value(entry, "path"), _value(entry, "content")
            if path is not None and path.value == ANSWERS and content is not None:
                return content if content.id == "scalar" else None
        return None


def _value(node: Any, name: str) -> Any:
    """Return the value of a key of a mapping; None if there is none."""
    if node is None or node.id != "mapping":
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _items(node: Any) -> Iterator[Any]:
    if node is not None and node.id == "sequence":
        yield from node.value


def _has_source(path: Path) -> bool:
    """Check whether cloud-init found a source of user data; without its word, it may have."""
    try:
        return _NO_SOURCE not in files.read_regular(path, limit=_LIMIT).decode(errors="replace")
    except OSError:
        return True
