"""`registryd answer`: the messenger API. It connects to the database and to nothing else."""

from __future__ import annotations

from registryd.config import Settings
from registryd.domain.endpoint import EndpointRules
from registryd.http.auth import KEY_USE_S, REFRESH_S, Directory
from registryd.http.figures import AnswerFigures
from registryd.http.messenger import messenger_app
from registryd.http.refusals import FLUSH_S, Refusals
from registryd.keep.timer import Job
from registryd.presence.answerer import Answerer, connections_needed
from registryd.presence.quota import QuotaGuard
from registryd.roles import eventloop
from registryd.roles.life import Life
from registryd.store import digest_keys
from registryd.store.digest_keys import DigestKey
from registryd.store.secretbox import digest_box

QUOTA_S = 1.0
DIGEST_KEY_S = 60.0


async def answer(settings: Settings, instance: int) -> None:
    """Runs one process of the role until SIGTERM or SIGINT. Raises: ConfigError, WrongSecretsKey, SchemaMismatch."""
    file, credentials = settings.file, settings.credentials
    box = digest_box(credentials)
    async with Life(settings, "answer", instance) as life:
        messenger_api = life.listen("messenger", file.api.listen)
        # Answers have connections of their own, one for each statement that may run and one for what admission reads: no other route
        # makes them wait.
        answers = await life.database("answers", connections_needed(file.presence.statements_in_flight) + 1)
        db = await life.database("rest", file.database.pool_size)
        endpoints = EndpointRules(file.delivery.allow_networks, file.delivery.deny_networks, allow_http=file.delivery.allow_http)
        directory, quota, refusals, figures = Directory(answers), QuotaGuard(answers), Refusals(db), AnswerFigures(db)

        async def read_digest_key() -> DigestKey:
            return await digest_keys.read_current(db, box)

        # Not by `db`: some messengers' slow calls can use it up, and answers go on meanwhile.
        await life.wait(answers)
        answerer = Answerer(
            answers,
            await life.until(read_digest_key),
            statements_in_flight=file.presence.statements_in_flight,
            group_max=file.presence.group_max,
            queue_max=file.presence.queue_max,
        )
        await life.until(directory.refresh)
        await life.until(quota.exchange)

        async def rotate_digest_key() -> None:
            answerer.digest_key = await read_digest_key()

        life.reload.others.append(directory.refresh)
        life.looks += [directory.look, answerer.look]
        eventloop.spare_the_collector()
        jobs = (
            Job("directory", REFRESH_S, directory.refresh),
            Job("quota", QUOTA_S, quota.exchange),
            Job("refusals", FLUSH_S, refusals.flush),
            Job("answer figures", FLUSH_S, figures.flush),
            Job("digest key", DIGEST_KEY_S, rotate_digest_key),
            Job("key use", KEY_USE_S, directory.record_use),
        )
        await life.serve({messenger_api: messenger_app(file.api, db, directory, answerer, quota, refusals, endpoints)}, jobs)
        await life.drain()
        await answerer.drain()
        await life.write_last(quota.exchange, refusals.flush, directory.record_use)
