"""`registryd operate`: the operator API and the jobs that are done once for all. It dials the database and nobody else."""

from __future__ import annotations

from datetime import UTC, datetime

from registryd.config import Settings
from registryd.feed.events import ContractFeed
from registryd.http.auth import OperatorToken
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.keep.jobs import jobs
from registryd.roles.life import Life
from registryd.store import digest_keys
from registryd.store.secretbox import digest_box


async def operate(settings: Settings, instance: int) -> None:
    """One process of the role, until SIGTERM or SIGINT. Raises: ConfigError, SchemaMismatch."""
    file, credentials = settings.file, settings.credentials
    token, feed_key, box = credentials.required("operator-token"), credentials.key("feed-key"), digest_box(credentials)
    async with Life(settings, "operate", instance) as life:
        operator_api = life.listen("operator", file.operator.listen)
        db = await life.database("operator", file.database.pool_size)
        keeping = await life.database("jobs", file.database.pool_size)
        feed = ContractFeed(db, feed_key)
        await life.wait(db)
        # A break-glass request is prepared under every digest key: this month's must be there, though nobody may have asked yet.
        await life.until(lambda: digest_keys.read_current(db, box, datetime.now(UTC).date()))
        operator = operator_app(file.api, OperatorToken(db, token), OperatorHandlers(feed.apply))
        await life.serve({operator_api: operator}, jobs(keeping, box))
        await life.drain()
        await life.write_last()
