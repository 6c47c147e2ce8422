"""`registryd operate`: the operator API, the console, and the jobs that are done once for all. It connects to the database alone."""

from __future__ import annotations

from aiohttp.web import BaseRequest

from registryd.config import Settings
from registryd.console import replies
from registryd.console.app import Console
from registryd.console.plans import Places, at_most
from registryd.feed.events import ContractFeed
from registryd.http.admission import POOL_SHARE
from registryd.http.auth import KEY_USE_S, REFRESH_S, Operators
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.http.reply import Reply
from registryd.keep.jobs import jobs
from registryd.keep.timer import Job
from registryd.roles import eventloop
from registryd.roles.life import Life
from registryd.store import digest_keys
from registryd.store.bulk import bulk
from registryd.store.secretbox import digest_box

CONSOLE_CONNECTIONS = 2
VIEW_CONNECTIONS = 3
"""However many look, the duty keeps the database to itself but for these. A key of the API has a share of two, and leaves persons one."""
BULK_CONNECTIONS = 2
"""What may take long in the console has connections of its own. More of it waits: it must not use up the database's connections."""
assert VIEW_CONNECTIONS > POOL_SHARE


async def operate(settings: Settings, instance: int) -> None:
    """Runs one process of the role until SIGTERM or SIGINT. Raises: ConfigError, SchemaMismatch."""
    file, credentials = settings.file, settings.credentials
    feed_key, box = credentials.key("feed-key"), digest_box(credentials)
    async with Life(settings, "operate", instance) as life:
        operator_api = life.listen("operator", file.operator.listen, replies.closed)
        db = await life.database("operator", file.database.pool_size)
        keeping = await life.database("jobs", file.database.pool_size)
        # Keys have a connection of their own: neither a job nor a call that takes long makes their copy too old.
        keys_db = await life.database("keys", 1)
        keys = Operators(keys_db)
        looks = await life.database("views", VIEW_CONNECTIONS)
        feed = ContractFeed(db, feed_key)
        # The console has few connections of its own: whoever looks at many pages holds up neither billing nor a job.
        places = Places(await life.database("console", CONSOLE_CONNECTIONS), looks, at_most(BULK_CONNECTIONS, lambda: bulk(settings)))
        console = Console(file.api, places, keys)
        api = operator_app(file.api, keys, OperatorHandlers(feed.apply), looks)

        async def handle(request: BaseRequest) -> Reply:
            return await (console(request) if replies.is_ours(request) else api(request))

        # Not by `db`, which calls of billing's that wait for each other can use up.
        await life.wait(keys_db)
        # A break-glass request is prepared under every digest key: this month's must be there, though nobody may have asked yet.
        await life.until(lambda: digest_keys.read_current(db, box))
        await life.until(keys.refresh)
        life.reload.others.append(keys.refresh)
        life.looks.append(keys.look)
        own = (Job("operator keys", REFRESH_S, keys.refresh), Job("operator key use", KEY_USE_S, keys.record_use))
        eventloop.spare_the_collector()
        await life.serve({operator_api: handle}, (*own, *jobs(keeping, box)))
        await life.drain()
        await life.write_last(keys.record_use)
