"""Templates and how values are written: counts, spans, times and small curves. Whatever stands in a page is escaped by Jinja."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from registryd import resources
from registryd.console.assets import ASSETS
from registryd.views.problems import UNSEALED_S

MINUTE, HOUR, DAY = 60, 3600, 86400
_CLOCK = re.compile(r"\b([0-9]{2,}):([0-9]{2}):([0-9]{2})\b")
NOTHING = Markup('<span class="none" aria-label="none">–</span>')


def count(value: int | None) -> Markup | str:
    return NOTHING if value is None else f"{value:,}"


def rate(value: float | None) -> Markup | str:
    """So many a second or a minute."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def share(value: float | None) -> Markup | str:
    return NOTHING if value is None else f"{100 * value:.0f} %" if value in (0, 1) else f"{100 * value:.1f} %"


def span(seconds: float | None) -> Markup | str:
    """How long, in the two largest units: `2 h 05 min`; with a minus where it is over."""
    if seconds is None:
        return NOTHING
    sign, length = ("−" if seconds < 0 else ""), abs(seconds)
    if 0 < length < 1:
        return f"{sign}{1000 * length:.0f} ms" if length >= 0.001 else "under 1 ms"
    if length < 10 and length != int(length):
        return f"{sign}{length:.1f} s"
    whole = round(length)
    if whole < MINUTE:
        return f"{sign}{whole} s"
    if whole < HOUR:
        return f"{sign}{whole // MINUTE} min {whole % MINUTE:02} s"
    if whole < DAY:
        return f"{sign}{whole // HOUR} h {whole % HOUR // MINUTE:02} min"
    return f"{sign}{whole // DAY:,} d {whole % DAY // HOUR} h"


def in_words(text: str) -> str:
    """A rule of the law with its durations in words: `24 h` for PostgreSQL's `24:00:00`."""
    return _CLOCK.sub(_duration, text)


def _duration(found: re.Match[str]) -> str:
    units = zip(map(int, found.groups()), ("h", "min", "s"), strict=True)
    return " ".join(f"{value} {unit}" for value, unit in units if value) or "0 s"


def size(value: int) -> str:
    number = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def moment(at: datetime | None, now: datetime) -> Markup:
    """A time as it lies from now, and by the clock (UTC): `3 min ago · 12:03:04`."""
    if at is None:
        return NOTHING
    away = (at - now).total_seconds()
    distance = brief(abs(away))
    told = "now" if abs(away) < 1 else f"in {distance}" if away > 0 else f"{distance} ago"
    return Markup('<time datetime="{}"><span>{}</span> <small>{}</small></time>').format(
        at.astimezone(UTC).isoformat(), told, clock(at, now)
    )


def clock(at: datetime, now: datetime) -> str:
    at = at.astimezone(UTC)
    if at.date() == now.astimezone(UTC).date():
        return f"{at:%H:%M:%S}"
    return f"{at.day} {at:%b %H:%M}" if abs((at - now).days) < 180 else f"{at.day} {at:%b %Y}"


def date(at: datetime) -> str:
    """A date of the law. Midnight at the operator is no midnight in UTC, so the hour stands beside it."""
    at = at.astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def brief(seconds: float) -> str:
    """How long, in the largest unit."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit or (unit < HOUR and seconds >= unit):
            return f"{int(seconds // unit):,} {name}"
    return f"{int(seconds)} s"


def spark(values: Sequence[float | None], label: str, height: int = 36) -> Markup:
    """A curve of the last minutes, the oldest left, from zero up to the highest. What it shows is said beside it in words too."""
    known = [value for value in values if value is not None]
    top = max(known, default=0) or 1
    step = 240 / max(len(values) - 1, 1)
    dots = [f"{index * step:.1f},{height - 1 - (height - 3) * value / top:.1f}" for index, value in enumerate(values) if value is not None]
    line = " ".join(dots)
    area = f"0,{height} {line} {(len(values) - 1) * step:.1f},{height}" if dots else ""
    return Markup(
        '<svg class="spark" viewBox="0 0 240 {h}" width="240" height="{h}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        '<polygon points="{area}"/><polyline points="{line}" vector-effect="non-scaling-stroke"/></svg>'
    ).format(h=height, label=label, area=area, line=line)


ENVIRONMENT = Environment(
    loader=FileSystemLoader(resources.path("registryd/console/templates")),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {each.__name__: each for each in (count, rate, share, span, size, moment, date, in_words)}
ENVIRONMENT.globals |= {
    "assets": {name: asset.path for name, asset in ASSETS.items()},
    "spark": spark,
    "nothing": NOTHING,
    "unsealed_s": UNSEALED_S,
}
for _name in ENVIRONMENT.list_templates():
    ENVIRONMENT.get_template(_name)  # now, because an upgrade may replace the files


def render(template: str, **values: Any) -> bytes:
    return ENVIRONMENT.get_template(template).render(**values).encode()
