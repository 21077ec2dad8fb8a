"""What the plugins printed last, on disk: a plugin that fails after a restart keeps its changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.core import json_file
from bdii.sources.plugins import Edit
from bdii.tree import Dn

logger = logging.getLogger(__name__)

_LARGEST = 2**28

Edits = Mapping[str, Sequence[Edit]]


class PluginMemory:
    """The file ``plugins.json`` in the state directory; without plugins there is none."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "plugins.json"
        self._edits = self._read()

    @property
    def edits(self) -> Edits:
        """The modifications of each plugin."""
        return self._edits

    def keep(self, edits: Edits) -> None:
        """Keep modifications, and write them if they have changed; raises `LocalFailure`."""
        if edits == self._edits:
            return
        self._edits = edits
        json_file.write(
            self._path,
            {
                name: [
                    [one.dn, one.operation, one.attribute, list(one.values), one.line]
                    for one in found
                ]
                for name, found in edits.items()
            },
        )

    def _read(self) -> Edits:
        try:
            content = json_file.read(self._path, limit=_LARGEST)
            return {
                str(name): [
                    Edit(Dn(dn), operation, attribute, tuple(map(str, values)), int(line))
                    for dn, operation, attribute, values, line in found
                ]
                for name, found in content.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, AttributeError, TypeError, ValueError) as error:
            words = "%s: cannot be read: %s; the plugins are run without it"
            logger.warning(words, self._path, error)
            return {}
