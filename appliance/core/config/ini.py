"""The dialect of SSM's files, which SSM reads with ConfigParser: ``key: value``, ``key = value``.

Blanks around a line do not count. The files that the appliance shipped from 2019 to 2021 had a
blank before section headers and TABs at line ends. ConfigParser reads such a header as the second
line of the value before it, and then finds ``certificate`` in ``[broker]``. So this dialect has no
continuation lines; no option of these files needs them. It does not interpolate ``%(name)s``
either: a password may contain a per cent sign.
"""

from __future__ import annotations

import re
from pathlib import Path

from appliance.core.config.document import Document, Setting, lines, remark_comment
from appliance.core.run.errors import ConfigurationError, Problem

_ASSIGNMENT = re.compile(r"(?P<key>[^:=]+?)\s*[:=]\s*(?P<value>.*)")


def parse(path: Path, text: str) -> Document:
    """Parse a file; option names are folded to lower case, and no option may be set twice."""
    document, problems = Document(paths=[path]), []
    section: str | None = None
    for number, raw in enumerate(lines(text), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            section = line.strip("[]").strip()
            if not line.endswith("]") or not section:
                problems.append(Problem(path, number, "", "not a section header; write [name]"))
            elif section in document.sections:
                problems.append(
                    Problem(
                        path,
                        number,
                        "",
                        f"section [{section}] begins here a second time; merge the two",
                    )
                )
            document.sections.setdefault(section, {})
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None or section is None:
            cause = (
                "no section header above this line"
                if match
                else "neither 'option: value' nor a [section]"
            )
            # The message does not quote the line, which may be a part of a secret.
            problems.append(Problem(path, number, "", cause))
            continue
        key = match["key"].lower()
        if earlier := document.get(section, key):
            text = f"is set a second time in [{section}]; first in line {earlier.line}; remove one"
            problems.append(Problem(path, number, key, text))
        document.remarks += remark_comment(match["value"], path, number, f"[{section}] {key}")
        document.set(section, key, Setting(match["value"], path, number))
    if problems:
        raise ConfigurationError(problems)
    return document
