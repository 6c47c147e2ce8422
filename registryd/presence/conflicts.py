"""Whose bindings conflict with those that another process writes, and for how long they share no statement with other messengers'.

A conflict undoes a whole statement, and does not say who caused it. So all that bound in it are suspected, and bind in statements of their
own until these show who goes on to conflict. It is counted in statements, not in seconds: whoever conflicts all the time stays apart.
"""

from __future__ import annotations

from collections.abc import Collection, Container

from registryd.domain.identifiers import MessengerId

SUSPECTED, GUILTY, GUILT_MAX = 4, 32, 256
"""How many statements without a conflict a messenger must bind in by itself: after a conflict of a statement that several bound in, after
one of its own, and at most."""


class Conflicts(Container[MessengerId]):
    """It contains the messengers whose bindings are asked apart."""

    def __init__(self) -> None:
        self._left: dict[MessengerId, int] = {}
        """How many statements they still have to bind in by themselves."""

    def __contains__(self, messenger_id: object) -> bool:
        return messenger_id in self._left

    def note(self, binding: Collection[MessengerId]) -> None:
        """A statement that these messengers bound in had a conflict."""
        for messenger_id in binding:
            self._left[messenger_id] = min(self._left.get(messenger_id, 0) + (GUILTY if len(binding) == 1 else SUSPECTED), GUILT_MAX)

    def acquit(self, binding: Collection[MessengerId]) -> None:
        """A statement that these messengers bound in had none: that tells something of one that was by itself."""
        if len(binding) == 1 and self._left:
            (messenger_id,) = binding
            left = self._left.pop(messenger_id, 0) - 1
            if left > 0:
                self._left[messenger_id] = left
