"""Seals the journal's pages that this worker wrote, about once a second.

Owns: the memory of which pages those are. A page is noted before its statement runs and asked for until it is found, because a commit
whose answer was lost may still stand, and one that is late is not passed over. What is never found was never written.

Invariant: a page that was answered is sealed by this worker within about a second, unless the worker is killed before: then
`registryd audit verify` tells of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from uuid import UUID

from registryd import observe
from registryd.store import seals
from registryd.store.pool import Database

SEARCHED_S = 300.0
"""How long a page is looked for: longer than a statement that nobody waits for any more goes on."""


class Sealer:
    """Notes pages and seals them through `db`. `clock()`: seconds that only grow."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._noted: dict[UUID, float] = {}
        """When each page was noted, the oldest first."""

    def note(self, page_ids: Iterable[UUID]) -> None:
        """Remembers pages that are about to be written."""
        self._noted.update(dict.fromkeys(page_ids, self._clock()))

    async def seal(self) -> None:
        """Seals what was written since. Raises: Unavailable; nothing is then forgotten."""
        noted = iter(list(self._noted))
        while page_ids := list(islice(noted, seals.SEAL_MAX_PAGES)):
            for page_id in await seals.seal_pages(self._db, page_ids):
                self._noted.pop(page_id, None)
        lost = self._clock() - SEARCHED_S
        for page_id, noted_at in list(self._noted.items()):
            if noted_at > lost:
                break
            del self._noted[page_id]
        observe.pages_unsealed.set(len(self._noted))
