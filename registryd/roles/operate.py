"""`registryd operate`: the operator API and the jobs that are done once for all. It connects to the database and to nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

from registryd.config import Settings
from registryd.feed.events import ContractFeed
from registryd.http.auth import KEY_USE_S, REFRESH_S, Operators
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.keep.jobs import jobs
from registryd.keep.timer import Job
from registryd.roles.life import Life, spare_the_collector
from registryd.store import digest_keys
from registryd.store.secretbox import digest_box


async def operate(settings: Settings, instance: int) -> None:
    """Runs one process of the role until SIGTERM or SIGINT. Raises: ConfigError, SchemaMismatch."""
    file, credentials = settings.file, settings.credentials
    feed_key, box = credentials.key("feed-key"), digest_box(credentials)
    async with Life(settings, "operate", instance) as life:
        operator_api = life.listen("operator", file.operator.listen)
        db = await life.database("operator", file.database.pool_size)
        keeping = await life.database("jobs", file.database.pool_size)
        # Keys have a connection of their own: neither a job nor a call that takes long makes their copy too old.
        keys = Operators(await life.database("keys", 1))
        feed = ContractFeed(db, feed_key)
        await life.wait(db)
        # A break-glass request is prepared under every digest key: this month's must be there, though nobody may have asked yet.
        await life.until(lambda: digest_keys.read_current(db, box, datetime.now(UTC).date()))
        await life.until(keys.refresh)
        life.reloads.append(keys.refresh)
        own = (Job("operator keys", REFRESH_S, keys.refresh), Job("operator key use", KEY_USE_S, keys.record_use))
        spare_the_collector()
        await life.serve({operator_api: operator_app(file.api, keys, OperatorHandlers(feed.apply))}, (*own, *jobs(keeping, box)))
        await life.drain()
        await life.write_last(keys.record_use)
