"""Write the OVA of a raw disk, or verify one: ``python -m deploy.ova --help``."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from deploy import images
from deploy.ova import archive, verify
from deploy.ova.virtual_machine import OvaError, VirtualMachine


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.ova", description=__doc__)
    parser.add_argument("file", type=Path, help="raw disk of the machine; with --verify, an OVA")
    parser.add_argument("--verify", action="store_true", help="only verify that FILE is complete")
    parser.add_argument("--release", default="13", help="release of Debian (default: 13)")
    words = "directory for the OVA (default: dist)"
    parser.add_argument("--into", type=Path, default=images.TOP / "dist", metavar="DIR", help=words)
    arguments = parser.parse_args()
    try:
        if arguments.verify:
            verify.check(arguments.file)
            return 0
        day = datetime.fromtimestamp(int(images.epoch()), UTC).date()
        machine = VirtualMachine(arguments.release, images.version(), day)
        print(archive.write(arguments.file, arguments.into, machine))
    except OvaError as error:
        print(f"ova: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
