"""What was installed: ``/var/lib/fedcloud/install.json``.

For each file it has the hashes of what we may have put there. A version's hashes are added before
its first file is written and the others forgotten after its last: whenever a run is killed, what
stands there is known as ours.
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
    """The version that is installed whole, the bundle that is in use, and by path the hashes of our files.

    There is no bundle from the first change of a run until what it installed has been taken into
    use.
    """

    version: str = ""
    bundle: str = ""
    shipped: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> InstallRecord:
        """Return what is recorded, nothing where nothing is; raises `ConfigurationError` for what is no record."""
        try:
            found = json.loads(path.read_bytes())
            shipped = {
                str(name): [str(one) for one in hashes] for name, hashes in found["files"].items()
            }
            return cls(str(found["version"]), str(found["bundle"]), shipped)
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "move it away, and files that you have not changed count as changed"
            cause = f"is no record of an installation; {remedy}"
            raise ConfigurationError([Problem(path, 0, "", cause)]) from error

    def write(self, path: Path) -> bool:
        """Write it, unless it stands there already; says whether it wrote."""
        told: Mapping[str, object] = {
            "version": self.version,
            "bundle": self.bundle,
            "files": self.shipped,
        }
        data = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
        if path.exists() and path.read_bytes() == data:
            return False
        files.make_directory(path.parent, mode=0o755)
        files.write_atomic(path, data, mode=0o644)
        return True
