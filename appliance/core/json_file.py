"""JSON files that a program keeps for its next run: read within limits, replaced as a whole.

Other accounts may be able to write such a file, so nesting that Python cannot parse is damage like
any other, and no bug.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.core import files
from appliance.core.run.errors import LocalFailure


def read(path: Path, *, limit: int) -> Any:
    """Return the content of a file of at most ``limit`` bytes.

    Raises:
        OSError: it does not exist, cannot be read, is longer, or is not a regular file.
        ValueError: it does not hold JSON.

    """
    content = files.read_regular(path, limit=limit)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write(path: Path, content: object) -> None:
    """Replace a file, also in a directory that does not exist yet.

    Raises:
        LocalFailure: it cannot be written; the former content stays.

    """
    text = json.dumps(content, indent=1)
    try:
        files.make_directory(path.parent)
        files.write_atomic(path, f"{text}\n".encode())
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
