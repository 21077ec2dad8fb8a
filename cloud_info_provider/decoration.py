"""Options that only add to what is published: a value that cannot be used is left out.

Such a value gets a warning with its line, and the cloud is published without it.
"""

from __future__ import annotations

from collections.abc import Collection

from appliance.core.config.settings import Settings

_UNKNOWN = ("", "unknown", "undefined")
_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_MOST = 2**63


def text(settings: Settings, section: str, option: str) -> str:
    """Return a text; empty if the file says that it is unknown."""
    found = settings.text(section, option)
    return "" if found.lower() in _UNKNOWN else found


def number(settings: Settings, section: str, option: str, *, least: int = 0) -> int | None:
    """Return a whole number; None if there is none."""
    found = text(settings, section, option)
    try:
        value = int(found) if found else None
    except ValueError:
        value = least - 1
    if value is None or least <= value < _MOST:
        return value
    words = f"{found!r} is left out; write a whole number, {least} or more"
    settings.warn(section, option, words)
    return None


def truth(
    settings: Settings, section: str, option: str, *, default: bool | None = None
) -> bool | None:
    """Return a truth value; None if it is unknown, ``default`` without the option."""
    found = text(settings, section, option).lower()
    if settings.where(section, option) is None:
        return default
    if found and found not in _TRUTH:
        settings.warn(section, option, f"{found!r} is left out; write true or false")
    return _TRUTH.get(found)


def term(
    settings: Settings, section: str, option: str, *, default: str, allowed: Collection[str]
) -> str:
    """Return a term of GLUE, or the default in place of another text."""
    found = text(settings, section, option)
    if not found or found.lower() in allowed:
        return found.lower() or default
    words = f"{found!r} is no term of GLUE: {default} is published; write {' or '.join(allowed)}"
    settings.warn(section, option, words)
    return default
