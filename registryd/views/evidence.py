"""The evidence: how much is kept since when, where the chain over the journal ends, and who verified it last."""

from __future__ import annotations

from datetime import date
from typing import Literal, cast

from registryd.store import evidence
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking


class Family(Shape, frozen=True):
    """A partitioned table."""

    family: Literal["journal_page", "notification_delivered", "delivery_attempt"]
    days: int
    """From the oldest day to today."""
    partitions: int
    oldest: date
    newest: date
    """The last day that a partition is made for: a week ahead."""
    size_bytes: int
    """With indexes."""
    over: int
    """Partitions that the policy no longer keeps: should be 0, or 1 for some minutes."""
    unplaced: int
    """Rows without a partition: should be 0. Counted to 100,000."""


class Chain(Shape, frozen=True):
    """Of the journal's seals."""

    seals: int
    end: int
    """The sequence of the last one."""
    sealed_at: Time
    sealed_until: Time
    """No page before this time can be changed unseen."""
    unsealed_seconds: float
    """How long ago the oldest page without a seal was written."""
    unsealed_pages: int
    """Counted to 10,000."""


class Verification(Shape, frozen=True):
    """The last `registryd audit verify`."""

    at: Time
    by: str
    pages: int
    findings: int
    """0: all was as it was written."""


class DigestKeys(Shape, frozen=True):
    """Of the journal's digests, one a month."""

    kept: int
    destroyed: int
    oldest_kept: date | None


class Evidence(Shape, frozen=True):
    seen_at: Time
    families: list[Family]
    chain: Chain
    log_entries: int
    """Of the break-glass log."""
    verified: Verification | None
    """None: nobody ever did."""
    digest_keys: DigestKeys


async def read(db: Database) -> Evidence:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        families, end = await evidence.families(moment), await evidence.chain_end(moment)
        verified, digest_keys = await evidence.verified(moment), await evidence.digest_keys(moment)
    return Evidence(
        seen_at=seen_at,
        families=[
            Family(
                family=cast("Literal['journal_page', 'notification_delivered', 'delivery_attempt']", f.family),
                days=(seen_at.date() - f.oldest).days + 1,
                partitions=f.partitions,
                oldest=f.oldest,
                newest=f.made_until,
                size_bytes=f.size_bytes,
                over=f.parts_over,
                unplaced=f.unplaced_rows,
            )
            for f in families
        ],
        chain=Chain(
            seals=end.seals,
            end=end.sequence,
            sealed_at=end.sealed_at,
            sealed_until=end.sealed_until,
            unsealed_seconds=round(end.unsealed_s, 3),
            unsealed_pages=end.unsealed_pages,
        ),
        log_entries=end.log_entries,
        verified=None
        if verified is None
        else Verification(at=verified.verified_at, by=verified.verified_by, pages=verified.pages, findings=verified.findings),
        digest_keys=DigestKeys(**digest_keys._asdict()),
    )
