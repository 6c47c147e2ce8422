"""Kinds of option values. Each says in plain words what it takes, and repeats nothing of what was given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from uuid import UUID

import click


class Whole(click.IntRange):
    """A whole number between bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"write a whole number{_bounds(self.min, self.max)}", param, ctx)


class Decimals(click.FloatRange):
    """A number between bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"write a number{_bounds(self.min, self.max)}", param, ctx)


class NoticeId(click.ParamType[UUID]):
    """A notification's id."""

    name = "notificationId"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        try:
            return value if isinstance(value, UUID) else UUID(str(value))
        except ValueError:
            self.fail("write a notificationId, such as 0192f8a4-53d1-7c3e-9a41-0f2b6c7d8e9f", param, ctx)


class Day(click.ParamType[date]):
    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            self.fail("write a day, such as 2026-11-24", param, ctx)


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" from {low:,g} on" if high is None else f" from {low:,.10g} to {high:,.10g}"


class ContractsMax(click.ParamType[Callable[[int], int]]):
    """A number of contracts, or a share of the live ones: 500 or 1%. A share of a small registry is at least one contract."""

    name = "number|share%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Callable[[int], int]:
        found = re.fullmatch(r"([0-9]{1,12})|([0-9]{1,3}(?:\.[0-9]{1,4})?)%", str(value), re.ASCII)
        if found is None:
            self.fail("a number of contracts such as 500, or a share of the live ones such as 1%", param, ctx)
        if found[1]:
            number = int(found[1])
            return lambda _: number
        share = float(found[2]) / 100
        return lambda live: math.ceil(live * share)


max_terminations_option = click.option(
    "--max-terminations", type=ContractsMax(), help="Let so many live contracts end; default: what the policy still lets end in this hour."
)
max_absent_option = click.option(
    "--max-absent", type=ContractsMax(), help="Let so many live contracts turn absent; default: as many as may end."
)


class Moment(click.ParamType[datetime]):
    """A time with its offset from UTC: without one, nobody can tell whether Moscow's midnight is meant."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail("write a time with its offset from UTC, such as 2028-03-01T00:00:00+03:00", param, ctx)
        return at
