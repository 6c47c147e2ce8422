"""A messenger's backfill: a file of numbers and codes is asked in batches, and the answers are appended to a file of results.

The file of results is the only state. A batch's lines are appended as its answer comes, in one write; what is there is never asked again,
so an interruption at any point costs the batches in flight, which are asked twice (every call is safe to repeat). Every line of the
source gets exactly one line of results, by its number; results hold no phone number and no code.

Nothing is given up for want of the registry: 429, 503 and a network that is away pause every connection, for as long as Retry-After
says, and twice as long each time up to a minute. What cannot become better by waiting ends the work: `Refused`.
"""

from __future__ import annotations

import asyncio
import csv
import fcntl
import os
import random
import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from time import time
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
import orjson

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import parse_code, parse_msisdn

HEADER = b"line,present,binding,error\n"
BATCH_MAX = 10_000
BACKOFF_MAX_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
_WAIT = {408, 425, 429, 500, 502, 503, 504}


class Refused(Refusal):
    """It cannot go on; the message says why and what to do. Results so far are kept."""


class Line(NamedTuple):
    """One line of the source: what to ask, or the word for what is wrong with it."""

    number: int
    query: dict[str, str]
    error: str = ""


class Results:
    """The file of results: `with Results(path, source)`; the same source goes on where it stopped. One process at a time."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._source = source
        self._done = bytearray()
        self.counts: Counter[str] = Counter()
        self.unasked = 0
        """How many lines could not be asked, those that were there before too."""

    def __enter__(self) -> Self:
        """Raises: Refused."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._resume()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def _resume(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another process is writing {self.path}: wait for it, or give other --results") from None
        there = os.fstat(self._fd)
        if there.st_size and self._source.stat().st_mtime > there.st_mtime:
            raise Refused(
                f"{self._source} was changed since {self.path} was written, which names its lines by number: give other --results"
            )
        whole = 0
        with self.path.open("rb") as file:
            for place, text in enumerate(file):
                if not text.endswith(b"\n"):
                    break  # torn by a crash: its batch is asked again
                if place == 0 and text != HEADER:
                    raise Refused(f"{self.path} is no file of results: give other --results")
                if place:
                    self._mark(int(text.partition(b",")[0]))
                    self.unasked += not text.endswith(b",\n")
                whole += len(text)
        os.ftruncate(self._fd, whole)
        if not whole:
            os.write(self._fd, HEADER)

    def _mark(self, line: int) -> None:
        if line >= len(self._done):
            self._done.extend(bytes(line + 1_000_000 - len(self._done)))
        self._done[line] = 1

    @property
    def done(self) -> int:
        return self._done.count(1)

    def has(self, line: int) -> bool:
        return line < len(self._done) and self._done[line] == 1

    def append(self, rows: list[tuple[int, str, str, str]]) -> None:
        """(line, present, binding, error), in one write."""
        os.write(self._fd, "".join([f"{line},{present},{binding},{error}\n" for line, present, binding, error in rows]).encode())
        for line, present, binding, error in rows:
            self._mark(line)
            self.unasked += bool(error)
            self.counts[error or ("present" if present == "true" else "absent")] += 1
            if binding:
                self.counts[binding] += 1


def count_lines(source: Path) -> int:
    with source.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def read_lines(source: Path) -> Iterator[Line]:
    """Every line but a header and empty ones. Raises: Refused."""
    with source.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        try:
            for fields in reader:
                if not any(fields) or (reader.line_num == 1 and not any(character.isdigit() for character in fields[0])):
                    continue
                yield _line(reader.line_num, fields)
        except csv.Error as error:
            raise Refused(f"{source} line {reader.line_num}: {error}") from None


def _line(number: int, fields: list[str]) -> Line:
    phone_number = fields[0].strip()
    if phone_number[:1] != "+":
        phone_number = f"+{phone_number}"
        if re.fullmatch(r"\+8[0-9]{10}", phone_number):
            return Line(number, {}, "ambiguous_number")  # 8 916 …, as Russians dial it, or a country of +8…
    query = {"phoneNumber": phone_number}
    try:
        parse_msisdn(phone_number)
    except ValueError:
        return Line(number, {}, "not_a_number")
    if len(fields) > 1 and fields[1]:
        query["identificationCode"] = fields[1]
        try:
            parse_code(fields[1])
        except ValueError:
            return Line(number, {}, "not_a_code")
    return Line(number, query)


class Identification:
    """Asks what the results lack. `on_progress(lines)` and `on_wait(why, seconds)` tell of it; `stop.set()` ends it between batches."""

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
        """Returns when every line has its result, or after `stop`. Raises: Refused; batches that are being answered meanwhile are kept."""
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

    def _next_batch(self) -> list[Line]:
        """The next lines that have no result; what cannot be asked gets its result here."""
        batch: list[Line] = []
        wrong: list[tuple[int, str, str, str]] = []
        for line in self._lines:
            if self._results.has(line.number):
                continue
            if line.error:
                wrong.append((line.number, "", "", line.error))
            else:
                batch.append(line)
            if len(batch) == self._batch or len(wrong) == BATCH_MAX:
                break
        if wrong:
            self._results.append(wrong)
            self._on_progress(len(wrong))
            return batch or self._next_batch()
        return batch

    async def _ask(self, session: aiohttp.ClientSession, batch: list[Line]) -> list[tuple[str, str]] | None:
        """Until it is answered: (present, binding) of each line; None after `stop`. Raises: Refused."""
        body = orjson.dumps({"queries": [line.query for line in batch]})
        while True:
            await self._pause()
            if self.stop.is_set():
                return None
            try:
                async with session.post(self._url, data=body, allow_redirects=False) as response:
                    raw = await response.read()
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
                raise Refused(f"TLS: {error}; see --ca, --certificate and --key") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                self._fail(type(error).__name__, 0)
                continue
            if response.status == HTTPStatus.OK:
                self._failures = 0
                return _answers(raw, len(batch))
            if response.status not in _WAIT:
                raise Refused(_explain(response.status, raw, batch))
            self._fail(
                f"{response.status} {_problem(raw).get('code', '')}".strip(), _retry_after_s(response.headers.get("Retry-After", ""))
            )

    def _fail(self, why: str, retry_after_s: float) -> None:
        """Pauses every connection: for Retry-After, and longer each time, with some chance so that clients do not come back together."""
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


def _answers(raw: bytes, wanted: int) -> list[tuple[str, str]]:
    """Raises: Refused, where it is not the answer to so many queries."""
    try:
        results = orjson.loads(raw)["results"]
        answers = [("true" if {True: True, False: False}[item["present"]] else "false", item["binding"] or "") for item in results]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        answers = []
    if len(answers) != wanted:
        raise Refused("what answers there is not the registry's API: see --url")
    return answers


def _problem(raw: bytes) -> dict[str, object]:
    """RFC 9457, or nothing where a proxy answered."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _explain(status: int, raw: bytes, batch: list[Line]) -> str:
    problem = _problem(raw)
    said = f"{status} {problem.get('code', '')}: {problem.get('detail', 'no reason given')}"
    errors = problem.get("errors")
    for item in errors if isinstance(errors, list) else []:
        where = re.match(r"queries\[(\d+)\]", str(item.get("path", "")))
        if where and int(where[1]) < len(batch):
            said += f" Line {batch[int(where[1])].number}: {item.get('message')}."
    return said


def _retry_after_s(header: str) -> float:
    """RFC 9110 10.2.3: seconds, or a date; 0 where it says neither."""
    if re.fullmatch(r"[0-9]{1,9}", header, re.ASCII):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except ValueError:
        return 0.0
