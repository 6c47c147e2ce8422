"""A way from the daemon to its database that can be slow, or dead without a word. It runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from registryd.demo import embedded
from tests.conftest import TestDatabase


class Relay:
    def __init__(self, path: str, delay_s: float) -> None:
        self.port = 0
        self._path = path
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._is_open = asyncio.Event()
        self._is_open.set()

    def cut(self) -> None:
        """What comes from now on waits, both ways, as what a network loses is sent again."""
        self._loop.call_soon_threadsafe(self._is_open.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._is_open.set)

    def run(self, listens: threading.Event) -> None:
        server = self._loop.run_until_complete(self._start())
        self.port = server.sockets[0].getsockname()[1]
        listens.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            server, to_server = await asyncio.open_unix_connection(self._path)
            await asyncio.gather(self._copy(client, to_server), self._copy(server, to_client))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while part := await source.read(65_536):
                await self._is_open.wait()
                self._loop.call_later(self._delay_s, target.write, part)
        finally:
            self._loop.call_later(self._delay_s, target.close)


@contextmanager
def relaying(server: embedded.Server, delay_s: float = 0.0) -> Iterator[Relay]:
    """`delay_s`: each way."""
    relay, listens = Relay(f"{server.socket_directory}/.s.PGSQL.{server.port}", delay_s), threading.Event()
    thread = threading.Thread(target=relay.run, args=(listens,))
    thread.start()
    listens.wait()
    try:
        yield relay
    finally:
        relay.stop()
        thread.join()


class Relayed(TestDatabase):
    """The daemon reaches it over the relay; who tests it does not."""

    def __init__(self, server: embedded.Server, name: str, relay: Relay) -> None:
        super().__init__(server, name)
        self._relay = relay

    def dsn(self, user: str = "postgres") -> str:
        return super().dsn(user) if user == "postgres" else f"postgresql://{user}@127.0.0.1:{self._relay.port}/{self.name}"
