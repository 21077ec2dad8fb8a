r"""The dialect of files that set a shell's variables: ``NAME=value``, ``export NAME=value``.

Such a file is parsed, never executed. All that a shell would expand or run is an error: ``$NAME``,
``$(command)``, backquotes, ``~``, commands. The rest means the same as in sh: quotes are removed,
a backslash quotes the next character, adjacent pieces are joined. Lines may end in CR LF. A second
assignment of another value is an error, unless the first value is empty: a shell would take the
last one, and an edit of the first one would have no effect.

All options are in section ``DEFAULT``, under their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core.config.document import Document, Setting
from appliance.core.run.errors import ConfigurationError, Problem

SECTION = "DEFAULT"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(
    r"""(?P<end>\n|;)
      | (?P<blank>[ \t]+)
      | (?P<joined>\\\n)
      | (?P<expansion>\$\([^)\n]*\)? | `[^`\n]*`?)
      | '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | \\(?P<escaped>.)
      | (?P<last>\\)
      | (?P<operator>[&|<>()]+)
      | (?P<open>['"])
      | (?P<plain>(?:[^\s$'"\\&|<>();`] | \$(?!\() | [^\S \t\n])+)""",
    re.DOTALL | re.VERBOSE,
)
_EXPANSION = re.compile(r"\$[({A-Za-z_0-9@*#?!$-]|`")
_TILDE = re.compile(r"[^=]+=(?:.*:)?~", re.DOTALL)
_ESCAPE = re.compile(r"\\([$`\"\\\n])", re.DOTALL)
_REPLACED = (
    "would be replaced by a shell, but nothing is executed here; write the plain value in single"
    " quotes"
)


@dataclass(slots=True)
class _Word:
    line: int
    text: str = ""
    literal_length: int = 0
    """Characters at its beginning that are not quoted."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    is_literal: bool = True

    @property
    def name(self) -> str:
        """The variable that the word sets; empty if it is not an assignment."""
        # In sh, "NAME"=value is a command, not an assignment: the name must be unquoted.
        name, equals, _ = self.text.partition("=")
        return name if equals and self.literal_length > len(name) and _NAME.fullmatch(name) else ""


def parse(path: Path, text: str) -> Document:
    """Parse the assignments of a shell file; execute nothing.

    Messages quote the names of variables only: other texts may be a part of a password.

    Raises:
        ConfigurationError: some lines are not plain assignments; all of them are listed.

    """
    document, problems = Document(paths=[path]), []
    for command in _commands(text.replace("\r\n", "\n")):
        is_export = command[0].text == "export"
        words = command[1:] if is_export else command
        wrong = next(
            (
                word
                for word in words
                if not (word.name or (is_export and _NAME.fullmatch(word.text)))
            ),
            None,
        )
        if wrong is not None:
            cause = (
                "a value with blanks must be in quotes"
                if words[0].name
                else "only NAME=value is read here"
            )
            found = wrong.problems or [(wrong.line, f"{cause}; nothing is executed")]
            problems += [Problem(path, line, words[0].name, text) for line, text in found]
            continue
        for word in filter(lambda word: word.name, words):
            problems += [Problem(path, line, word.name, text) for line, text in word.problems]
            entry, earlier = (
                Setting(word.text.partition("=")[2], path, word.line),
                document.get(SECTION, word.name),
            )
            # An empty value above is a template, which a later line fills.
            if earlier and earlier.text not in ("", entry.text):
                text = f"is set a second time; first in line {earlier.line}; remove one"
                problems.append(Problem(path, word.line, word.name, text))
            document.set(SECTION, word.name, entry)
    if problems:
        raise ConfigurationError(problems)
    return document


def _commands(text: str) -> Iterator[list[_Word]]:
    """Yield the words of each command that has any."""
    words: list[_Word] = []
    for word in _words(text):
        if word is not None:
            words.append(word)
        elif words:
            yield words
            words = []
    if words:
        yield words


def _words(text: str) -> Iterator[_Word | None]:
    """Yield the words of a text, and None at the end of each command."""
    word: _Word | None = None
    position, line = 0, 1
    while position < len(text):
        if word is None and text[position] == "#":
            position = (text.find("\n", position) + 1 or len(text) + 1) - 1
            continue
        token = _TOKEN.match(text, position)
        assert token is not None  # noqa: S101  every character begins some token
        position = token.end()
        kind = str(token.lastgroup)
        if kind in ("end", "blank"):
            if word is not None:
                yield word
            word = None
            if kind == "end":
                yield None
        elif kind != "joined":
            word = word or _Word(line)
            _append(word, kind, token[kind], line)
            if kind == "open":  # without its end, the rest of the text has no structure
                break
        line += token[0].count("\n")
    if word is not None:
        yield word


def _append(word: _Word, kind: str, piece: str, line: int) -> None:
    cause = ""
    if kind == "open":
        cause = "a quote is not closed"
    elif kind == "operator":
        cause = f"{piece[0]} would run something; put the value into quotes"
    elif kind == "expansion":
        cause = f"{piece[0]}{'(…)' if piece[0] == '$' else '…`'} {_REPLACED}"
    elif kind == "plain":
        tilde = _TILDE.match(word.text + piece)
        cause = f"~ {_REPLACED}" if tilde and tilde.end() > len(word.text) else _cause(piece)
    elif kind == "double":
        cause = _cause(_ESCAPE.sub("", piece))
        piece = _ESCAPE.sub(lambda escape: escape[1].strip("\n"), piece)
    if cause:
        word.problems.append((line, cause))
    word.text += piece
    word.is_literal &= kind == "plain"
    if word.is_literal:
        word.literal_length = len(word.text)


def _cause(piece: str) -> str:
    found = _EXPANSION.search(piece)
    return f"{found[0][0]} {_REPLACED}" if found else ""
