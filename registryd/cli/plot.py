"""A report by day, drawn in the terminal: for each count, a column a day, summed over messengers; for each worst time, the worst."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from rich.text import Text

from registryd.store.reports import Table

HEIGHT = 6
EIGHTHS = " ▁▂▃▄▅▆▇█"


def days(table: Table, width: int) -> list[date]:
    """Every day from the first to the last, without gaps; the last ones, where there are more than fit."""
    place = table.columns.index("day")
    there = [row[place] for row in table.rows]
    first, last = min(there), max(there)
    count = min((last - first).days + 1, max(1, width))
    return [last - timedelta(days=count - 1 - n) for n in range(count)]


def series(table: Table, shown: list[date]) -> Iterator[tuple[str, list[float], str]]:
    """Each column that has a trend: its name, a value a day, and their unit. A day without rows is 0."""
    place = table.columns.index("day")
    for index, (name, kind) in enumerate(zip(table.columns, table.types, strict=True)):
        is_count = kind == "int8"
        if not is_count and not (kind == "interval" and name.startswith("worst")):
            continue
        values = dict.fromkeys(shown, 0.0)
        for row in table.rows:
            if row[place] in values and row[index] is not None:
                before = values[row[place]]
                values[row[place]] = before + row[index] if is_count else max(before, row[index].total_seconds())
        if any(values.values()):
            yield name, list(values.values()), "" if is_count else " s"


def draw(table: Table, width: int) -> Iterator[Text]:
    """The lines, at most `width` wide. `table` has a column day, and rows."""
    label_width = 14
    shown = days(table, width - label_width - 2)
    for name, values, unit in series(table, shown):
        top = max(values)
        yield Text(name, style="bold")
        for level in range(HEIGHT, 0, -1):
            label = f"{_number(top * level / HEIGHT)}{unit}" if level in (HEIGHT, HEIGHT // 2) else ""
            # The least there is, is seen: a day with one late notification is not a day without.
            heights = [max(value * HEIGHT / top, 0.125 if value else 0) for value in values]
            bars = "".join(_block(height - (level - 1)) for height in heights)
            yield Text(f"{label:>{label_width}} ") + Text(bars.rstrip(), style="cyan")
        yield Text(f"{'':>{label_width}} {shown[0]}" + (f" … {shown[-1]}" if len(shown) > 1 else ""), style="dim")


def _block(height: float) -> str:
    """A cell, filled from below by this part of it."""
    return EIGHTHS[round(min(max(height, 0), 1) * 8)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
