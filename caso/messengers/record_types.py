"""Which kinds of record a messenger sends, from the options of a site.

cASO sends all kinds that its extractors give. Here a kind is sent when the site asks for it, so
that an upgrade never changes what a site sends:

    [messenger_NAME] record_types    exactly these kinds
    [ssm] output_path_KIND           this kind as well (messenger ssm alone)
    extractor, written in the file   the kinds of these services: nova cloud, cinder storage,
                                     neutron ip
    otherwise                        cloud
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from appliance.core.config.settings import Settings
from caso.kinds.kind import RecordKind
from caso.kinds.registry import KINDS, SERVICES

CLOUD = "cloud"
KNOWN = tuple(dict.fromkeys(kind for kinds in SERVICES.values() for kind in kinds))
"""The kinds that the sources give, in the order of the sources."""
_NOT_HERE = ("energy",)


def chosen(settings: Settings, name: str, *, asked: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the kinds that a messenger sends; ``asked`` are those that its other options name."""
    section = f"messenger_{name}"
    if not (words := settings.words(section, "record_types")):
        usual = {CLOUD} & set(_of_sources(settings))
        return _usable(settings, {*usual, *asked, *_explicit(settings)})
    for word in words:
        if word in _NOT_HERE:
            settings.warn(section, "record_types", f"{word}: not in this version, ignored")
        elif word not in KNOWN:
            known = ", ".join(KNOWN)
            settings.error(section, "record_types", f"{word!r} is not a record type; write {known}")
    found = _usable(settings, set(words))
    if not found:
        settings.error(section, "record_types", "none of these can be sent; add cloud")
    return found


def kinds(settings: Settings, name: str) -> tuple[RecordKind[Any], ...]:
    """Return the kinds of a messenger for which only ``record_types`` and ``extractor`` count."""
    return tuple(KINDS[kind] for kind in chosen(settings, name))


def _usable(settings: Settings, wanted: set[str]) -> tuple[str, ...]:
    """Return the kinds that a source gives."""
    given = _of_sources(settings)
    entry = settings.where("DEFAULT", "extractor")
    # A flag is for one run, which leaves other kinds out on purpose. It has no line.
    is_in_file = entry is not None and entry.line > 0
    for kind in sorted(wanted & set(KNOWN) - set(given)) if given and is_in_file else ():
        source = next(name for name, kinds in SERVICES.items() if kind in kinds)
        words = f"{kind} records are asked for, but {source} is missing; add it"
        settings.warn("DEFAULT", "extractor", words)
    return tuple(kind for kind in KNOWN if kind in wanted and kind in given)


def _of_sources(settings: Settings) -> tuple[str, ...]:
    names = settings.words("DEFAULT", "extractor", default=SERVICES)
    return tuple(kind for name in SERVICES if name in names for kind in SERVICES[name])


def _explicit(settings: Settings) -> tuple[str, ...]:
    """Return the first kind of each service that the site has written down."""
    names = settings.words("DEFAULT", "extractor")
    return tuple(SERVICES[name][0] for name in SERVICES if name in names)


def missing(settings: Settings, sent: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds that cASO sends by default and this site neither sends nor excludes."""
    if settings.words("DEFAULT", "extractor"):
        return ()
    return tuple(kind for kind in KNOWN if kind not in set(sent))
