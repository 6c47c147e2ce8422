"""`POST /v1/presence` and `/v1/presence/batch`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from registryd import observe
from registryd.domain.binding import Bound, Outcome
from registryd.domain.errors import CodeInUse
from registryd.domain.presence import Answer, PresenceQueries, PresenceQuery
from registryd.domain.times import rfc3339
from registryd.http.auth import Directory
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.presence.answerer import Answerer, BatchAnswer
from registryd.store.messengers import Messenger

PART_QUERIES = 1_000
"""How many numbers of a batch are counted at once. Between two parts the event loop serves others."""

_QUOTED: Mapping[Outcome | None, str] = {None: "null", **{outcome: f'"{outcome}"' for outcome in Outcome}}
_VERDICTS: Mapping[tuple[bool, Outcome | None], str] = {
    (present, outcome): f'"present":{"true " if present else "false"},"binding":{_QUOTED[outcome]},"generation":'
    for present, outcome in product((True, False), (None, *Outcome))
}
"""Every answer that a query can have, as ready JSON, as long for present as for absent, because TLS shows lengths. The rest of a reply is
ids, numbers and times, which need no escaping."""


_PRESENT, _ABSENT = (f"{{{_VERDICTS[present, None]}null}}," for present in (True, False))
"""What a batch tells of a number that came without a code."""
_ZEROS_AND_ONES = bytes.maketrans(b"01", b"\0\1")


def _verdict(present: bool, bound: Bound | None) -> str:
    if bound is None or bound.generation is None:
        return f"{_VERDICTS[present, bound.outcome if bound else None]}null"
    return f"{_VERDICTS[present, bound.outcome]}{bound.generation}"


def _results(batch: BatchAnswer) -> str:
    """The results of a batch as JSON. Without codes there are two of them, which take the places of the zeros and ones at once."""
    if batch.bound is None:
        return batch.present.replace("1", _PRESENT).replace("0", _ABSENT)[:-1]
    return ",".join([f"{{{_verdict(present, bound)}}}" for present, bound in batch.answers])


async def answer_one(answerer: Answerer, call: Call[Messenger]) -> Answer:
    """Answers the call's query and counts it. Raises: CodeInUse, Unavailable."""
    query: PresenceQuery = call.content
    try:
        answer = await answerer.answer(call.caller.messenger_id, query, call.received)
    except CodeInUse:
        # CODE_IN_USE is told of present numbers only, so the messenger has learned the answer, and it counts.
        call.reserved.record((query.msisdn,), (True,))
        raise
    call.reserved.record((query.msisdn,), (answer.present,))
    return answer


@dataclass(frozen=True)
class PresenceHandlers:
    directory: Directory
    answerer: Answerer

    async def answer(self, call: Call[Messenger]) -> Reply:
        return self.tell(await answer_one(self.answerer, call))

    def tell(self, answer: Answer) -> Reply:
        verdict = _verdict(answer.present, answer.bound)
        return Reply(f'{{"queryId":"{answer.query_id}",{verdict},{self._times(answer.received_at, answer.answered_at)}}}'.encode())

    async def answer_batch(self, call: Call[Messenger]) -> Reply:
        return self.tell_batch(await self.ask_batch(call, call.content))

    async def ask_batch(self, call: Call[Messenger], queries: PresenceQueries) -> BatchAnswer:
        """Answers queries and counts them. Raises: Unavailable."""
        if len(queries) > PART_QUERIES:
            await asyncio.sleep(0)  # reading ten thousand takes milliseconds: let others run
        batch = await self.answerer.answer_batch(call.caller.messenger_id, queries, call.received)
        presents = batch.present.encode().translate(_ZEROS_AND_ONES)
        for start in range(0, len(queries), PART_QUERIES):
            if start:
                await asyncio.sleep(0)
            part = slice(start, start + PART_QUERIES)
            call.reserved.record(queries.msisdns[part], presents[part])
        return batch

    def tell_batch(self, batch: BatchAnswer) -> Reply:
        times = self._times(batch.received_at, batch.answered_at)
        return Reply(f'{{"batchId":"{batch.batch_id}",{times},"results":[{_results(batch)}]}}'.encode())

    def _times(self, received_at: datetime, answered_at: datetime) -> str:
        deadline_at = received_at + self.directory.answer_within
        if answered_at > deadline_at:
            observe.answers_late.inc()
        return f'"receivedAt":"{rfc3339(received_at)}","answeredAt":"{rfc3339(answered_at)}","deadlineAt":"{rfc3339(deadline_at)}"'
