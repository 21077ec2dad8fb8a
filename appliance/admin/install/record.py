"""The record of the installation: ``/var/lib/fedcloud/install.json``.

It holds the hashes of each file that installations have written. The hashes of a version are added
before its first file is written, and those of other versions removed after its last. Files of a
killed run are therefore always recognised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import ConfigurationError, Problem


@dataclass(slots=True)
class InstallRecord:
    """The installed version, the bundle in use, and the hashes of its files by path.

    ``bundle`` is empty from the first change of a run until the services have been restarted.
    """

    version: str = ""
    bundle: str = ""
    shipped: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> InstallRecord:
        """Return the record; an empty one without the file.

        Raises:
            ConfigurationError: The file is not such a record.

        """
        try:
            found = json.loads(path.read_bytes())
            # Values are converted, because the administrator may have edited the file.
            shipped = {
                str(name): [str(one) for one in hashes] for name, hashes in found["files"].items()
            }
            return cls(str(found["version"]), str(found["bundle"]), shipped)
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "move it away; the next installation then treats every file as changed"
            cause = f"is not a record of an installation; {remedy}"
            raise ConfigurationError([Problem(path, 0, "", cause)]) from error

    def write(self, path: Path) -> bool:
        """Write the record if it differs from the file; return whether it did."""
        tree: Mapping[str, object] = {
            "version": self.version,
            "bundle": self.bundle,
            "files": self.shipped,
        }
        data = json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"
        if path.exists() and path.read_bytes() == data:
            return False
        files.make_directory(path.parent, mode=0o755)
        files.write_atomic(path, data, mode=0o644)
        return True
