"""What is wrong, for administrators: the words for exceptions of Python and of its libraries."""

from __future__ import annotations

import re

_CONNECTION = (
    r"certificate verify failed: ([^('\"]+)",
    r"(doesn't match)",
    r"\[Errno -?\d+\] ([\w ,]+)",
    r"(Remote end closed connection without response)",
    r"([Tt]imed out)",
)
_NO_NUMBER = re.compile(
    r"(?:invalid literal for int\(\)|could not convert string to float).*?: (.+)"
)
_NO_TIME = re.compile(r"Invalid isoformat string: (.+)")


def of_connection(error: BaseException) -> str:
    """Return why a connection failed, without what requests and urllib3 have put around it."""
    text = str(error)
    for pattern in _CONNECTION:
        if found := re.search(pattern, text):
            return found[1].strip().lower()
    if "IncompleteRead" in text:
        return "the answer breaks off"
    return text.rpartition(": ")[2].strip("'\")(")[:100] or "the connection failed"


def of_answer(error: BaseException) -> str:
    """Return what is wrong with a description of which the reader raised an exception."""
    text = " ".join(str(error).split())
    match error:
        case KeyError():
            return f"it lacks {text}"
        case IndexError():
            return "a list in it is too short"
        case TypeError() | AttributeError():
            return "a value in it has the wrong type"
        case ArithmeticError():
            return "a number in it is out of range"
    if found := _NO_NUMBER.fullmatch(text):
        return f"{found[1]} in it is no number"
    if found := _NO_TIME.fullmatch(text):
        return f"{found[1]} in it is no time"
    return text or "it is malformed"
