"""Tables for other programs, as JSON or CSV."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence

from appliance.core.run import output


def show(arguments: argparse.Namespace, table: Sequence[Sequence[object]]) -> bool:
    """Print a table, whose first row has the names, in the chosen form; False if there is none."""
    header, *rows = table
    if arguments.json:
        output.document([dict(zip(map(str, header), row, strict=True)) for row in rows])
    elif arguments.csv:
        csv.writer(sys.stdout, lineterminator="\r\n").writerows(table)
    return bool(arguments.json or arguments.csv)
