"""Record which options a program reads, by watching the getters of `Settings` during a load.

The recorder wraps the getters from outside, so that the product carries no code for its own
documentation. A load that ends with errors is as good as another: by then it has read everything.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from appliance.core.config.document import Document
from appliance.core.config.settings import Settings

_GETTERS = ("text", "integer", "boolean", "choice", "words", "path", "file")


@dataclass(frozen=True, slots=True)
class Reading:
    """One call of a getter: the place of an option, its values and its default."""

    file: Path
    section: str
    option: str
    kind: str
    """Name of the getter."""
    default: Any
    is_required: bool
    limits: tuple[int, int] | None
    allowed: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]
    is_directory: bool


@dataclass(slots=True)
class Recording:
    """Everything that the loads inside one `record` block asked for."""

    readings: list[Reading] = field(default_factory=list)
    accepted: list[tuple[Path, str, str]] = field(default_factory=list)
    """File, section and option of what is known and not read."""
    warnings: dict[tuple[Path, str, str], str] = field(default_factory=dict)
    """First warning about each option that the loaded files set."""
    _files: dict[int, Path] = field(default_factory=dict)
    _is_nested: bool = False

    def adopt(self, settings: Settings, document: Document) -> None:
        """Note from which file these settings come."""
        self._files[id(settings)] = (document.paths or [Path()])[0]

    def place(self, settings: Settings) -> Path:
        """Return the file that these settings come from."""
        return self._files[id(settings)]

    @contextlib.contextmanager
    def outermost(self) -> Iterator[bool]:
        """Yield whether no other getter is running: `file` calls `path`."""
        was_nested, self._is_nested = self._is_nested, True
        try:
            yield not was_nested
        finally:
            self._is_nested = was_nested


@contextlib.contextmanager
def record() -> Iterator[Recording]:
    """Watch all settings that are loaded in this block."""
    found = Recording()
    with contextlib.ExitStack() as stack:
        for name in _GETTERS:
            wrapped = _watched(getattr(Settings, name), name, found)
            stack.enter_context(mock.patch.object(Settings, name, wrapped))
        for name, wrap in (
            ("__init__", _adopting),
            ("accept", _accepting),
            ("ignore", _ignoring),
            ("warn", _warning),
        ):
            wrapped = wrap(getattr(Settings, name), found)
            stack.enter_context(mock.patch.object(Settings, name, wrapped))
        yield found


def _watched(getter: Callable[..., Any], kind: str, found: Recording) -> Callable[..., Any]:
    signature = inspect.signature(getter)

    @functools.wraps(getter)
    def watched(self: Settings, *arguments: Any, **options: Any) -> Any:
        bound = signature.bind(self, *arguments, **options)
        bound.apply_defaults()
        given = bound.arguments
        # A generator as argument would be empty for the getter once it has been read here.
        for name in ("aliases", "default", "allowed"):
            if name in given and not isinstance(given[name], str | int | Path | None):
                given[name] = tuple(given[name])
        with found.outermost() as is_outermost:
            if is_outermost:
                found.readings.append(_reading(found.place(self), kind, given))
            return getter(*bound.args, **bound.kwargs)

    return watched


def _reading(file: Path, kind: str, given: dict[str, Any]) -> Reading:
    limits = (given["minimum"], given["maximum"]) if kind == "integer" else None
    return Reading(
        file=file,
        section=given["section"],
        option=given["option"],
        kind=kind,
        default=given.get("default"),
        is_required=bool(given.get("required")),
        limits=limits,
        allowed=tuple(given.get("allowed", ())),
        aliases=given["aliases"],
        is_directory=bool(given.get("is_directory")),
    )


def _adopting(init: Callable[..., None], found: Recording) -> Callable[..., None]:
    def adopting(self: Settings, document: Document, **options: Any) -> None:
        found.adopt(self, document)
        init(self, document, **options)

    return adopting


def _accepting(accept: Callable[..., None], found: Recording) -> Callable[..., None]:
    def accepting(self: Settings, section: str, options: Any) -> None:
        names = list(options)
        found.accepted += [(found.place(self), section, name) for name in names]
        accept(self, section, names)

    return accepting


def _ignoring(ignore: Callable[..., None], found: Recording) -> Callable[..., None]:
    def ignoring(self: Settings, section: str, options: Mapping[str, str], **more: Any) -> None:
        for option, reason in options.items():
            found.warnings.setdefault((found.place(self), section, option), reason)
        ignore(self, section, options, **more)

    return ignoring


def _warning(warn: Callable[..., None], found: Recording) -> Callable[..., None]:
    def warning(self: Settings, section: str, option: str, text: str, **more: Any) -> None:
        found.warnings.setdefault((found.place(self), section, option), text)
        warn(self, section, option, text, **more)

    return warning
