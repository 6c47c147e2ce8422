"""Judges a history: what clients were told, by what is in the tables and in the inboxes when all is over."""

from __future__ import annotations

import time
from collections import defaultdict

from tests.conftest import Inbox, TestDatabase
from tests.history.audit import Fault, Notice, Row, faults
from tests.history.checker import Bound, Operation, State, find_anomaly
from tests.history.load import Clients, acknowledged, pushed

ABSENT = State(False, 0, 0.0, frozenset())


async def judge(database: TestDatabase, clients: Clients, inboxes: dict[int, Inbox]) -> list[Fault]:
    async with database.connect() as connection:
        rows = [
            Row(*record)
            for record in await connection.fetch(
                "SELECT msisdn, generation, messenger_id, identification_code, end_reason::text FROM registry.binding"
            )
        ]
        owed = await connection.fetch(
            "SELECT notification_id::text, messenger_id, generation, identification_code, msisdn, true AS is_settled"
            "  FROM registry.notification_delivered "
            "UNION ALL SELECT notification_id::text, messenger_id, generation, identification_code, msisdn, false"
            "  FROM registry.notification"
        )
        latest = await connection.fetch(
            "SELECT DISTINCT ON (msisdn) msisdn, generation, ended_at IS NULL AS is_live FROM registry.contract "
            "ORDER BY msisdn, generation DESC"
        )
        pages = await connection.fetch(
            "SELECT q.query_id::text, q.present FROM unnest($1::text[]::uuid[]) AS id, registry.find_query(id) AS q", list(clients.answered)
        )
        events = await connection.fetch("SELECT event_id FROM registry.feed_event WHERE outcome = 'applied'")
    journaled = {record["query_id"]: record["present"] for record in pages}
    happened = {record["event_id"] for record in events} | {row.code for row in rows}
    notices = [Notice(*tuple(record)[:4]) for record in owed]
    received = [notice for messenger_id, inbox in inboxes.items() for notice in pushed(messenger_id, inbox.receipts)]
    accepted = [notice for messenger_id, inbox in inboxes.items() for notice in pushed(messenger_id, acknowledged(inbox.receipts))]
    found = faults(
        clients.operations,
        rows,
        notices,
        received + clients.pulled,
        settled=[notice for notice, record in zip(notices, owed, strict=True) if record["is_settled"]],
        accepted=accepted + clients.pulled,
    )
    found += [Fault("lost", f"an answer without its page: {id_}") for id_, told in clients.answered.items() if journaled.get(id_) != told]
    found += [Fault("lost", f"an event that was applied: {event}") for event in clients.applied if event not in happened]
    not_authentic = [receipt for inbox in inboxes.values() for receipt in inbox.receipts if not receipt.verified]
    found += [Fault("not authentic", f"a push that is not authentic: {receipt.problem}") for receipt in not_authentic]

    notified: defaultdict[int, dict[int, set[tuple[int, str]]]] = defaultdict(lambda: defaultdict(set))
    for record in owed:
        notified[record["msisdn"]][record["generation"]].add((record["messenger_id"], record["identification_code"]))
    live: defaultdict[int, set[tuple[int, str]]] = defaultdict(set)
    for row in rows:
        if row.end_reason is None:
            live[row.number].add((row.messenger, row.code))
    ends = {record["msisdn"]: (record["is_live"], record["generation"]) for record in latest}
    of_number: defaultdict[int, list[Operation]] = defaultdict(list)
    for number, op in clients.operations:
        if op.told is not None or op.code in happened:  # what had no answer and left no trace has not happened
            of_number[number].append(op)
    now = time.monotonic()
    for number, operations in of_number.items():
        seen = (*ends.get(number, (False, 0)), frozenset(live[number]))
        looked = Operation("look", now, now, "", seen=seen)
        frozen: dict[int, Bound] = {generation: frozenset(bound) for generation, bound in notified[number].items()}
        anomaly = find_anomaly([*operations, looked], frozen, ABSENT)
        if anomaly is not None:
            what = f"no order explains {number} after {anomaly.explained} of {len(operations)} operations: {anomaly}"
            found.append(Fault("wrong", what))
    return found
