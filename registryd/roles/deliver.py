"""`registryd deliver`: lanes, pushes, retries and daily digests. It has no API, and it is the only role that connects to messengers'
endpoints.
"""

from __future__ import annotations

import asyncio

from registryd.config import Settings
from registryd.delivery import wakeup
from registryd.delivery.announcer import Announcer
from registryd.delivery.dispatcher import Dispatcher
from registryd.delivery.egress import Egress
from registryd.delivery.identity import endpoint_tls
from registryd.delivery.push import Pusher
from registryd.exposition import Known
from registryd.keep import timer
from registryd.keep.timer import Job
from registryd.roles.heartbeat import host_name
from registryd.roles.life import Life
from registryd.store import changes, messengers
from registryd.store.secretbox import signing_box

MESSENGERS_S = 30.0


async def deliver(settings: Settings, instance: int) -> None:
    """Runs one process of the role until SIGTERM or SIGINT. Raises: ConfigError, WrongSecretsKey, SchemaMismatch."""
    delivery, credentials = settings.file.delivery, settings.credentials
    box = signing_box(credentials)
    async with Life(settings, "deliver", instance) as life:
        db = await life.database("lanes", settings.file.database.pool_size)
        async with Pusher(db, box, Egress.of(delivery), lambda messenger: endpoint_tls(credentials, messenger)) as pusher:
            dispatcher = Dispatcher(db, pusher, f"{host_name()} {life.name}", delivery.concurrency)
            announcer = Announcer(db, pusher)
            known = Known("deliver")

            async def know_messengers() -> None:
                async with db.connection() as connection:
                    known.keep(messenger.name for messenger in await messengers.read_all(connection))

            await life.wait(db)
            await life.until(lambda: messengers.refuse_foreign_key(db, box))
            await life.until(know_messengers)
            await life.until(lambda: changes.publish(db, box))
            lanes = asyncio.create_task(dispatcher.run(), name="dispatcher")
            others = [
                asyncio.create_task(announcer.run(), name="announcer"),
                asyncio.create_task(wakeup.listen(db, dispatcher, announcer), name="wakeup"),
            ]
            life.looks.append(dispatcher.look)
            await life.serve({}, (Job("messengers", MESSENGERS_S, know_messengers),))
            await dispatcher.stop()
            await lanes
            await timer.end(others)
