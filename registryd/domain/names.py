"""What somebody meant who mistyped a name."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` where a known name is like it."""
    import difflib  # only here: nothing else of a start needs it

    like = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {like[0]}?" if like else ""
