"""Write docs/reference, and remove pages that are no longer generated."""

from __future__ import annotations

import sys

from docs.generator import options, pages
from docs.generator.sites import TOP

DIRECTORY = TOP / "docs/reference"


def main() -> int:
    """Write the pages; return the exit status."""
    try:
        made = pages.render()
    except options.DescriptionError as error:
        print(error, file=sys.stderr)
        return 1
    DIRECTORY.mkdir(exist_ok=True)
    for path in DIRECTORY.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (DIRECTORY / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
