"""Pictures of usage as SVG: stacked bars of days, and a map of what was accounted. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

Series = Mapping[str, Mapping[str, float]]
"""Values by name and day; a day is like ``2026-11-03``."""

_COLORS = ("#3366aa", "#ee7733", "#228833", "#cc3377", "#aa9933", "#66bbcc", "#884422", "#777777")
_MOST = len(_COLORS)
_LONGEST = 22
"""Characters of a name that fit beside the map."""
_OTHERS = "others"
_HEIGHT, _LEFT, _TOP, _ROW, _STEP = 160, 130, 14, 14, 12
STATES = {"done": "#99cc99", "unknown": "#eecc77", "missing": "#cc4444", "none": "#eeeeee"}
"""The states of a day on the map, with their colours."""


def bars(title: str, days: Sequence[str], series: Series) -> str:
    """Return stacked bars, one for each day; of many names, the largest have a colour each."""
    shown = _largest(series)
    tops = {day: sum(values.get(day, 0.0) for values in shown.values()) for day in days}
    highest = max(tops.values(), default=0.0) or 1.0
    parts = [
        _text(0, _TOP - 3, title),
        _text(0, _TOP + 10, f"{highest:,.0f}"),
        *_stacks(days, shown, highest),
        *_days(days, _TOP + _HEIGHT + 12),
    ]
    for number, name in enumerate(shown):
        top = _TOP + _HEIGHT + 20 + number * _ROW
        parts.append(_box(_LEFT, top, 10, 10, _COLORS[number]))
        parts.append(_text(_LEFT + 14, top + 9, name))
    return _picture(len(days), _TOP + _HEIGHT + 24 + len(shown) * _ROW, parts)


def heat(title: str, days: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return a map with a row for each name, and one of `STATES` for each day."""
    parts = [_text(0, _TOP - 3, title)]
    for number, (name, states) in enumerate(sorted(rows.items())):
        top = _TOP + number * _ROW
        parts.append(
            _text(
                0,
                top + 10,
                name[:8] + "… " + name.partition(" ")[2] if len(name) > _LONGEST else name,
            )
        )
        for place, day in enumerate(days):
            state = states.get(day, "none")
            color, words = STATES[state], f"{name} {day}: {state}"
            parts.append(_box(_LEFT + place * _STEP, top, _STEP - 1, _ROW - 1, color, words))
    parts += _days(days, _TOP + len(rows) * _ROW + 12)
    return _picture(len(days), _TOP + len(rows) * _ROW + 18, parts)


def _largest(series: Series) -> dict[str, Mapping[str, float]]:
    """Return the largest of the series, and the sum of the others."""
    ordered = sorted(series, key=lambda name: (-sum(series[name].values()), name))
    if len(ordered) <= _MOST:
        return {name: series[name] for name in ordered}
    shown = {name: series[name] for name in ordered[: _MOST - 1]}
    rest: dict[str, float] = {}
    for name in ordered[_MOST - 1 :]:
        for day, value in series[name].items():
            rest[day] = rest.get(day, 0.0) + value
    return {**shown, _OTHERS: rest}


def _stacks(days: Sequence[str], series: Series, highest: float) -> Iterator[str]:
    for place, day in enumerate(days):
        bottom = float(_TOP + _HEIGHT)
        for number, (name, values) in enumerate(series.items()):
            value = values.get(day, 0.0)
            height = value / highest * _HEIGHT
            bottom -= height
            if height:
                words = f"{name} {day}: {value:,.1f}"
                left = _LEFT + place * _STEP
                yield _box(left, bottom, _STEP - 1, height, _COLORS[number], words)


def _days(days: Sequence[str], top: float) -> Iterator[str]:
    """Yield the names of the first day, and of the first one of each month."""
    for place, day in enumerate(days):
        if place == 0 or day.endswith("-01"):
            yield _text(_LEFT + place * _STEP, top, day)


def _box(left: float, top: float, width: float, height: float, color: str, words: str = "") -> str:
    size = f'x="{left:g}" y="{top:.2f}" width="{width:g}" height="{height:.2f}"'
    return f'<rect {size} fill="{color}"><title>{html.escape(words)}</title></rect>'


def _text(left: float, top: float, words: str) -> str:
    return f'<text x="{left:g}" y="{top:g}">{html.escape(words)}</text>'


def _picture(days: int, height: float, parts: Sequence[str]) -> str:
    width = _LEFT + max(days, 12) * _STEP + 90
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}"'
        f' font-family="sans-serif" font-size="10">{"".join(parts)}</svg>'
    )
