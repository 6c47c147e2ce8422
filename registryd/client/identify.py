"""Asks about a file of numbers and codes in batches, and appends the answers to a file of results.

The file of results is the only state. The lines of a batch are appended in one write when its answer comes, and what is there is never
asked again. So an interruption costs only the batches in flight, which are asked twice; every call is safe to repeat. Every line of the
source gets exactly one line of results, by its number. Results hold no phone number and no code.

While the registry cannot answer (429, 503, no network), every connection pauses for as long as Retry-After says, and twice as long each
time, up to a minute. What waiting cannot mend ends the work: `ClientRefused`.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import aiohttp
import orjson

from registryd.client.results import Results
from registryd.client.source import ClientRefused, SourceLine, read_lines
from registryd.domain.times import seconds_until

BATCH_MAX = 10_000
BACKOFF_MAX_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
_WAIT = {408, 425, 429, 500, 502, 503, 504}


class Identification:
    """Asks for the lines that have no result yet. It calls `on_progress(lines)` and `on_wait(why, seconds)`; `stop.set()` ends it between
    batches.
    """

    def __init__(
        self,
        source: Path,
        results: Results,
        url: str,
        api_key: str,
        *,
        batch: int,
        concurrency: int,
        tls: ssl.SSLContext | None,
        on_progress: Callable[[int], None],
        on_wait: Callable[[str, float], None],
    ) -> None:
        self.stop = asyncio.Event()
        self._lines = read_lines(source)
        self._results = results
        self._url = url.rstrip("/") + "/v1/presence/batch"
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._batch = batch
        self._concurrency = concurrency
        self._tls = tls
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._resume_at = 0.0
        self._failures = 0

    async def run(self) -> None:
        """Returns when every line has its result, or after `stop`. Raises: ClientRefused, after the batches in flight."""
        connector = aiohttp.TCPConnector(limit=self._concurrency, ssl=self._tls if self._tls is not None else True)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=_TIMEOUT) as session:
            ended = await asyncio.gather(*(self._work(session) for _ in range(self._concurrency)), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _work(self, session: aiohttp.ClientSession) -> None:
        try:
            while not self.stop.is_set() and (batch := self._next_batch()):
                answers = await self._ask(session, batch)
                if answers is not None:
                    self._results.append([(line.number, *answer, "") for line, answer in zip(batch, answers, strict=True)])
                    self._on_progress(len(batch))
        except BaseException:
            self.stop.set()
            raise

    def _next_batch(self) -> list[SourceLine]:
        """The next lines without a result. A line that cannot be asked gets its result here."""
        batch: list[SourceLine] = []
        wrong: list[tuple[int, str, str, str, str]] = []
        for line in self._lines:
            if self._results.has(line.number):
                continue
            if line.error:
                wrong.append((line.number, "", "", "", line.error))
            else:
                batch.append(line)
            if len(batch) == self._batch or len(wrong) == BATCH_MAX:
                break
        if wrong:
            self._results.append(wrong)
            self._on_progress(len(wrong))
            return batch or self._next_batch()
        return batch

    async def _ask(self, session: aiohttp.ClientSession, batch: list[SourceLine]) -> list[tuple[str, str, str]] | None:
        """Asks a batch until it is answered. Returns each line's present, binding, generation; None after `stop`. Raises: ClientRefused."""
        body = orjson.dumps({"queries": [line.query for line in batch]})
        while True:
            await self._pause()
            if self.stop.is_set():
                return None
            try:
                async with session.post(self._url, data=body, allow_redirects=False) as response:
                    raw = await response.read()
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
                raise ClientRefused(f"TLS: {error}; see --ca, --certificate and --key") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                self._fail(type(error).__name__, 0)
                continue
            if response.status == HTTPStatus.OK:
                self._failures = 0
                return _answers(raw, len(batch))
            if response.status not in _WAIT:
                raise ClientRefused(_explain(response.status, raw, batch))
            wait_s = seconds_until(response.headers.get("Retry-After", ""), datetime.now(UTC)) or 0.0
            self._fail(f"{response.status} {_problem(raw).get('code', '')}".strip(), wait_s)

    def _fail(self, why: str, retry_after_s: float) -> None:
        """Pauses every connection for Retry-After, and longer each time. A random part keeps clients from coming back together."""
        now = asyncio.get_running_loop().time()
        is_new = self._resume_at <= now  # else one that was in flight meets what is known
        self._failures += is_new
        wait_s = max(retry_after_s, min(BACKOFF_MAX_S, 0.5 * 2**self._failures)) * random.uniform(1, 1.1)  # noqa: S311 # not a secret
        self._resume_at = max(self._resume_at, now + wait_s)
        if is_new:
            self._on_wait(why, wait_s)

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stop.is_set() and (wait_s := self._resume_at - loop.time()) > 0:
            try:
                await asyncio.wait_for(self.stop.wait(), wait_s)
            except TimeoutError:
                continue


def _answers(raw: bytes, wanted: int) -> list[tuple[str, str, str]]:
    """Parses the answer to `wanted` queries. Raises: ClientRefused, where it is none."""
    try:
        results = orjson.loads(raw)["results"]
        answers = [
            ("true" if {True: True, False: False}[item["present"]] else "false", item["binding"] or "", str(item["generation"] or ""))
            for item in results
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        answers = []
    if len(answers) != wanted:
        raise ClientRefused("what answers there is not the registry's API: see --url")
    return answers


def _problem(raw: bytes) -> dict[str, object]:
    """The problem document (RFC 9457); empty where a proxy answered instead."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _explain(status: int, raw: bytes, batch: list[SourceLine]) -> str:
    problem = _problem(raw)
    said = f"{status} {problem.get('code', '')}: {problem.get('detail', 'no reason given')}"
    errors = problem.get("errors")
    for item in errors if isinstance(errors, list) else []:
        where = re.match(r"queries\[(\d+)\]", str(item.get("path", "")))
        if where and int(where[1]) < len(batch):
            said += f" Line {batch[int(where[1])].number}: {item.get('message')}."
    return said
