"""The demo's story: a query, a binding, an absent number, a batch, the contract's end, the signed notification, the report.

Every step is the real thing over the wire, timed, and checked: a step that does not come out as it should fails the demo.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
import uvloop
from rich.console import Console
from rich.markup import escape

from registryd.client.receiver import Receipt, Receiver
from registryd.delivery import signing
from registryd.demo import embedded
from registryd.demo.endings import end_soon
from registryd.demo.site import DemoError, Examples, Site, daemon, fill, prepare
from registryd.demo.steps import STEPS, Scene
from registryd.domain.identifiers import phone_number
from registryd.domain.testnumbers import Kind, example
from registryd.domain.times import rfc3339

KNOWN_TIMEOUT_S = 10.0
KNOWN_LOOK_S = 0.05
MESSENGER = "demo"

out = Console(highlight=False)


@dataclass(frozen=True)
class Options:
    once: bool
    as_json: bool
    contracts: int
    data: Path | None
    api_port: int
    operator_port: int
    receiver_port: int


def run(options: Options) -> bool:
    """Runs the demo; whether every step came out as it should. Raises: EmbeddedError."""
    say = Console(stderr=True, quiet=True) if options.as_json else out
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        try:
            _check_ports(options)
            started = time.perf_counter()
            binaries = embedded.find_binaries()
            directory = options.data
            if directory is None:
                # /tmp and not $TMPDIR: sockets need a short path, and PostgreSQL's user must get there.
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registryd-demo-", dir="/tmp")))
                directory.chmod(0o711)
            directory.mkdir(parents=True, exist_ok=True)
            server = stack.enter_context(embedded.Server(binaries, directory))
            _step(say, started, f"PostgreSQL {binaries.version} ({binaries.source}) in {server.directory}")
            started = time.perf_counter()
            site = prepare(server, options.api_port, options.operator_port)
            _step(say, started, "roles, schema and reports: psql -f sql/roles.sql; registryd migrate")
            started = time.perf_counter()
            examples, imported = fill(site, options.contracts)
            _step(
                say,
                started,
                f"{len(examples.ranges)} numbering ranges and {imported['lines']:,} contracts: registryd contracts import "
                f"({imported['lines'] / max(imported['seconds'], 0.01):,.0f} lines/s)",
            )
            started = time.perf_counter()
            facts = stack.enter_context(daemon(site))
            addresses = facts["addresses"]
            _step(say, started, f"registryd serve: messenger API on {addresses['messenger']}, operator API on {addresses['operator']}")
            return uvloop.run(_tell(options, say, site, examples, facts))
        except DemoError as error:
            Console(stderr=True).print(f"[red]✗[/] {escape(str(error))}", soft_wrap=True)
            return False
        except KeyboardInterrupt:
            # Asked to end before the story was over: nothing is left running, and a story that was to be told was not.
            return not options.once
    return True


def _check_ports(options: Options) -> None:
    """Raises: DemoError, before anything is made, where a port is taken."""
    wanted = {"--api-port": options.api_port, "--operator-port": options.operator_port, "--receiver-port": options.receiver_port}
    for option, port in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                free = " ".join(f"{name} 0" for name in wanted)
                raise DemoError(f"port {port} is taken: name another with {option}, or take free ones: {free}") from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _step(say: Console, started: float, text: str) -> None:
    say.print(f"[green]✓[/] {(time.perf_counter() - started) * 1000:7.0f} ms  {escape(text)}", soft_wrap=True)


async def _tell(options: Options, say: Console, site: Site, examples: Examples, facts: dict[str, Any]) -> bool:
    account, told = _account(site)
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()
    secret = signing.from_shown(account["webhookSecret"])
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Receiver(secret, port=options.receiver_port, on_receipt=receipts.put_nowait) as receiver, aiohttp.ClientSession() as http:
        await asyncio.to_thread(site.run, "messenger", "set", MESSENGER, "--endpoint", receiver.url)
        api, operator, health = (f"http://{facts['addresses'][name]}" for name in ("messenger", "operator", "health"))
        scene = Scene(site, api, operator, {"serve": health, **facts["health"]}, account, examples, receiver, http, receipts, told)
        await _wait_known(scene)
        if options.as_json:
            click.echo(orjson.dumps(_facts(scene)))
        else:
            story = asyncio.ensure_future(_story(say, scene))
            await asyncio.wait({story, asyncio.ensure_future(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if not story.done():
                story.cancel()
                with suppress(asyncio.CancelledError):
                    await story
                return False
            if not story.result():
                return False
            if options.once:
                return True
            _invite(say, scene)
        endings = asyncio.ensure_future(end_soon(scene, examples.ends_soon))
        while not ended.is_set() and not endings.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.2)
            while not receipts.empty():
                _show(say, receipts.get_nowait())
        endings.cancel()
        with suppress(asyncio.CancelledError):
            await endings
    return True


async def _wait_known(scene: Scene) -> None:
    """Until the daemon knows the messenger and its endpoint: it reads its directory every second. Raises: DemoError."""
    headers = {"Authorization": f"Bearer {scene.account['apiKey']}"}
    for _ in range(int(KNOWN_TIMEOUT_S / KNOWN_LOOK_S)):
        async with scene.http.get(scene.api + "/v1/account", headers=headers) as response:
            if response.status == 200 and (await response.json())["endpoint"]["url"] == scene.receiver.url:
                return
        await asyncio.sleep(KNOWN_LOOK_S)
    raise DemoError(f"the daemon does not know the messenger {MESSENGER} after {KNOWN_TIMEOUT_S:g} s")


def _account(site: Site) -> tuple[dict[str, Any], int]:
    """The demo's messenger, and how many stories this data directory has told."""
    path = site.directory / "messenger.json"
    if path.exists():
        account = orjson.loads(path.read_bytes())
    else:
        account = {**site.run("messenger", "add", MESSENGER, "--agreement", "demo", as_json=True), "stories": -1}
    account["stories"] += 1
    path.touch(mode=0o600)
    path.write_bytes(orjson.dumps(account))
    return account, account["stories"]


async def _story(say: Console, scene: Scene) -> bool:
    for title, step in STEPS:
        say.print(f"\n[bold]{title}[/]")
        started = time.perf_counter()
        good, text = await step(scene)
        mark = "[green]✓[/]" if good else "[red]✗[/]"
        say.print(f"{mark} {(time.perf_counter() - started) * 1000:7.1f} ms  {escape(text)}", soft_wrap=True)
        if not good:
            return False
    return True


def _facts(scene: Scene) -> dict[str, Any]:
    return {
        "api": scene.api,
        "operator": scene.operator,
        "operatorToken": scene.site.operator_key,
        "messengerId": scene.account["messengerId"],
        "apiKey": scene.account["apiKey"],
        "webhookSecret": scene.account["webhookSecret"],
        "dsn": scene.site.dsn,
        "config": str(scene.site.config),
        "numbers": _numbers(scene),
        "health": scene.health,
    }


def _numbers(scene: Scene) -> dict[str, str]:
    """What a messenger's engineer tries things out with. The first three are contracts, or none, of the population."""
    return {
        "present": phone_number(scene.number),
        "absent": phone_number(scene.examples.never_issued),
        "endsSoon": phone_number(scene.examples.ends_soon),
        "codeInUse": phone_number(example(Kind.CODE_IN_USE)),
        "slow": phone_number(example(Kind.SLOW)),
        "unavailable": phone_number(example(Kind.UNAVAILABLE)),
    }


def _invite(say: Console, scene: Scene) -> None:
    number = phone_number(scene.nth(1))
    numbers = _numbers(scene)
    event = f'{{"eventId": "mine-1", "type": "terminated", "phoneNumber": "{number}", "occurredAt": "{rfc3339(datetime.now(UTC))}"}}'
    lines = [
        "# a messenger asks, and binds its user",
        f"curl -s {scene.api}/v1/presence -H 'Authorization: Bearer {scene.account['apiKey']}' -H 'Content-Type: application/json' \\",
        f'     -d \'{{"phoneNumber": "{number}", "identificationCode": "me"}}\'',
        "# billing ends the contract; the receiver here then shows the notification",
        f"curl -s {scene.operator}/operator/v1/contract-events -H 'Authorization: Bearer {scene.site.operator_key}' \\",
        f"     -H 'Content-Type: application/json' -d '{{\"events\": [{event}]}}'",
        "# test numbers, to be asked in the same way: they leave no trace (registryd/http/README.md has the table)",
        f"#   {phone_number(example(Kind.PRESENT))} present            {phone_number(example(Kind.ABSENT))} absent",
        f"#   {numbers['codeInUse']} its code is in use {numbers['slow']} slow             {numbers['unavailable']} 503",
        f"# {numbers['endsSoon']} is a contract that ends ten seconds after you bound it; the receiver here then shows the notification",
        "# the operator and the DBA look around",
        f"curl -s {scene.health['serve']}/readyz; curl -s {scene.health['serve']}/metrics | grep ^registryd_queries_total",
        f"{_program()} --config {scene.site.config} status",
        f"{_program()} --config {scene.site.config} report answer_deadline",
        f"{scene.site.server.psql} '{scene.site.dsn}'",
    ]
    say.print("\n[bold]It goes on serving. Paste these, and end it with Ctrl-C:[/]\n")
    for line in lines:
        say.print(line, style="dim" if line.startswith("#") else "", markup=False, soft_wrap=True)
    say.print()
    say.print(f"In a browser: {scene.api}/docs is the messengers' document, {scene.operator}/ the operator's console;", soft_wrap=True)
    say.print(f"log in there with {scene.site.operator_key}\n", markup=False, soft_wrap=True)


def _program() -> str:
    """How this program is called from here: it may be on no PATH."""
    script = Path(sys.executable).with_name("registryd")
    if not script.exists():
        return f"{sys.executable} -m registryd"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)


def _show(say: Console, receipt: Receipt) -> None:
    verdict = "verified" if receipt.verified else f"NOT VERIFIED: {receipt.problem}"
    codes = ", ".join(notice["identificationCode"] for notice in receipt.notifications)
    say.print(f"{datetime.now(UTC):%H:%M:%S} received {' '.join(filter(None, (receipt.kind, codes)))}: {verdict}", markup=False)
