"""Changes of single options of configuration files; all other lines and comments stay.

An option is set in its own line; else in place of its commented example; else at the end of its
section. All functions take a text and return the new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from appliance.core.run.errors import UsageError

_QUOTES = ("'", '"')


def set_ini(text: str, section: str, option: str, value: str, *, separator: str = " = ") -> str:
    """Set an option of an INI file; ``section`` is empty for a file without sections."""
    lines = text.split("\n")
    begin, end = _section(lines, section)
    key = re.escape(option)
    active = [n for n in range(begin, end) if re.match(rf"\s*{key}\s*[=:]", lines[n])]
    examples = [n for n in range(begin, end) if re.match(rf"[#;]\s*{key}\s*[=:]", lines[n])]
    line = f"{option}{separator}{value}"
    if section and not any(one.strip() == f"[{section}]" for one in lines):
        end_of_file = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{end_of_file}[{section}]\n{line}\n"
    if not active and not examples:
        last = end
        while last > begin and not lines[last - 1].strip():
            last -= 1
        # A blank line makes room, so that the lines of the next section keep their numbers.
        rest = lines[last + 1 :] if last < end < len(lines) else lines[last:]
        return "\n".join([*lines[:last], line, *rest])
    where = active[-1] if active else examples[0]
    follows = where + 1
    while active and follows < end and lines[follows][:1] in (" ", "\t") and lines[follows].strip():
        follows += 1  # continuation lines of the value
    is_same = re.fullmatch(rf"\s*{key}\s*[=:]\s*{re.escape(value)}\s*", lines[where])
    if active and is_same and follows == where + 1:
        return text  # as it was written, with its blanks
    return "\n".join([*lines[:where], line, *lines[follows:]])


def _section(lines: Sequence[str], section: str) -> tuple[int, int]:
    """Return the range of lines of a section, without its header."""
    headers = [number for number, line in enumerate(lines) if line.startswith("[")]
    if not section:
        return 0, headers[0] if headers else len(lines)
    for number in headers:
        if lines[number].strip() == f"[{section}]":
            return number + 1, next((other for other in headers if other > number), len(lines))
    return len(lines), len(lines)


def oslo_value(value: str) -> str:
    """Return a value in oslo.config's spelling.

    A dollar sign is doubled, because oslo.config substitutes variables; a value that begins and
    ends with a quote is quoted, because oslo.config removes one pair.

    Raises:
        UsageError: oslo.config would read every spelling as another value.

    """
    if "\\$" in value or "\n" in value or value != value.strip():
        raise UsageError(
            "password",
            "it has blanks at an end, or a backslash before $, which oslo.config cannot read",
            "choose another",
        )
    text = value.replace("$", "$$")
    return f'"{text}"' if text[:1] == text[-1:] and text[:1] in _QUOTES else text


def set_variable(text: str, name: str, value: str, *, prefix: str = "") -> str:
    """Set a variable of a shell file; ``prefix`` is ``export`` and a blank, or empty."""
    quoted = (
        value
        if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value)
        else "'" + value.replace("'", "'\\''") + "'"
    )
    lines = text.split("\n")
    pattern = re.compile(rf"\s*(#\s*)?(export\s+)?{re.escape(name)}=")
    found = [
        number
        for number, line in enumerate(lines)
        if (match := pattern.match(line)) and not match[1]
    ]
    # The last setting counts for a shell; without one, the first commented example is replaced.
    found = found[-1:] or [number for number, line in enumerate(lines) if pattern.match(line)][:1]
    line = f"{prefix}{name}={quoted}"
    if found:
        comment = re.search(r"\s+#.*$", lines[found[0]])
        is_set = not lines[found[0]].lstrip().startswith("#")
        lines[found[0]] = line + (comment[0] if comment and is_set else "")
        return "\n".join(lines)
    return f"{text.rstrip(chr(10))}\n{line}\n"


def set_yaml(text: str, top: str, option: str, value: str) -> str:
    """Set a plain option of an outermost mapping, which is added if it is missing."""
    name = rf"[\"']?{re.escape(option)}[\"']?:"
    if braces := re.search(rf"^{re.escape(top)}:[ \t]*{{([^{{}}]*)}}", text, re.MULTILINE):
        return _set_in_braces(text, braces, name, f"{option}: {value}")
    lines = text.split("\n")
    begin, end, indent = _mapping(lines, top)
    if begin < 0:
        return f"{text.rstrip(chr(10))}\n{top}:\n  {option}: {value}\n"
    for number in range(begin, end):
        if re.match(rf"{indent}{name}(\s|$)", lines[number]):
            comment = re.search(r"\s+#.*$", lines[number])
            lines[number] = f"{indent}{option}: {value}{comment[0] if comment else ''}"
            return "\n".join(lines)
    lines.insert(begin, f"{indent}{option}: {value}")
    return "\n".join(lines)


def set_outermost(text: str, option: str, value: str) -> str:
    """Set a plain option outside all mappings of a YAML file."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if match := re.match(rf"{re.escape(option)}:[^#]*?(\s+#.*)?$", line):
            lines[number] = f"{option}: {value}{match[1] or ''}"
            return "\n".join(lines)
    return f"{text.rstrip(chr(10))}\n{option}: {value}\n"


def remove_ini(text: str, section: str, option: str) -> str:
    """Turn the settings of an option of an INI file into a commented example without a value."""
    lines = text.split("\n")
    begin, end = _section(lines, section)
    for number in range(begin, end):
        if re.match(rf"\s*{re.escape(option)}\s*[=:]", lines[number]):
            lines[number] = f"#{option} ="
    return "\n".join(lines)


def remove_variable(text: str, name: str) -> str:
    """Turn the settings of a variable of a shell file into a commented example."""
    pattern = rf"^[ \t]*(export[ \t]+)?{re.escape(name)}=.*$"
    return re.sub(pattern, lambda match: f"#{match[1] or ''}{name}=", text, flags=re.MULTILINE)


def _set_in_braces(text: str, braces: re.Match[str], name: str, setting: str) -> str:
    """Set an option of a mapping such as ``flows: {accounting: on, images: off}``."""
    inner, count = re.subn(rf"(?<![\w\"'-]){name}[^,\n]*", setting, braces[1])
    if not count:
        inner = f"{setting}, {inner}" if inner.strip() else setting
    return f"{text[: braces.start(1)]}{inner}{text[braces.end(1) :]}"


def _mapping(lines: Sequence[str], top: str) -> tuple[int, int, str]:
    """Return the range of lines below an outermost key, and their indent; -1 without it."""
    for number, line in enumerate(lines):
        if re.match(rf"{re.escape(top)}:\s*(#.*)?$", line):
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][:1] in " #"):
                end += 1
            inner = next(
                (
                    one
                    for one in lines[number + 1 : end]
                    if one.strip() and not one.lstrip().startswith("#")
                ),
                "  x",
            )
            return number + 1, end, inner[: len(inner) - len(inner.lstrip())]
    return -1, -1, ""


def set_shares(text: str, projects: Mapping[str, str]) -> str:
    """Replace the shipped example below ``shares`` by the projects; keep any other list."""
    match = re.search(r"^( +)shares:\n((?:\1 +.*\n|\n)*)", text, re.MULTILINE)
    if match is None or "PROJECT-ID" not in match[2]:
        return text
    indent = match[1] + "    "
    block = "".join(
        f"{indent}{vo}:\n{indent}    auth:\n{indent}        project_id: {project}\n"
        for vo, project in projects.items()
    )
    return f"{text[: match.start(2)]}{block}\n{text[match.end() :].lstrip(chr(10))}"


def set_lines(text: str, wanted: Sequence[str]) -> str:
    """Replace all lines that are not comments."""
    kept = [line for line in text.split("\n") if line.startswith("#")]
    return "\n".join([*kept, *wanted]) + "\n"
