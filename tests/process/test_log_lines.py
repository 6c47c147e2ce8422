"""The log's lines: what is told of a failure, what becomes of lines that nobody takes, and journald's priorities."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from structlog.testing import capture_logs

from registryd import observe
from registryd.loglines import LogWriter
from registryd.roles import eventloop
from tests.conftest import Site, wait_for


def test_a_task_that_nobody_awaits_is_told_by_its_name_and_kind_alone() -> None:
    async def fail() -> None:
        raise KeyError("+79161234567")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(eventloop.tell_failure)
        task = asyncio.create_task(fail(), name="forgotten")
        await asyncio.sleep(0)
        del task
        gc.collect()

    with capture_logs() as log:
        asyncio.run(run())
    assert log == [{"event": "background_failed", "log_level": "error", "where": "forgotten", "kind": "KeyError"}]


def test_a_log_that_nobody_reads_hangs_no_process(site: Site) -> None:
    """A pipe of 4 kB holds some 25 lines of refusals."""
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "answer"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, pipesize=4096) as process:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        try:
            for _ in range(100):
                assert status(f"http://{started['messenger'][0]}/nowhere") == 404
            assert status(f"http://{started['health'][0]}/healthz") == 200
            process.stderr.close()  # and one that is gone
            assert status(f"http://{started['messenger'][0]}/nowhere") == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_lines_that_nobody_takes_are_dropped_and_counted() -> None:
    def dropped() -> float:
        return observe.METRICS.get_sample_value("registryd_log_lines_dropped_total") or 0.0

    before = dropped()
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LogWriter(stream, observe.log_lines_dropped.inc, lines_max=10)
        line = "x" * 1_000 + "\n"
        for _ in range(200):  # a pipe holds 64 of them
            writer.write(line)
        wait_for(lambda: dropped() > before)
        written = 0
        while select.select([reading], [], [], 0.5)[0]:
            written += len(os.read(reading, 65_536))
        writer.close()
        assert written + (dropped() - before) * len(line) == 200 * len(line)
        os.close(reading)
    broken = LogWriter(io.StringIO(), observe.log_lines_dropped.inc)
    broken.stream.close()
    broken.write(line)
    wait_for(lambda: dropped() > before + 1)
    broken.close()


def test_lines_for_journald_bear_their_priority(site: Site) -> None:
    with (site.directory / "journal").open("wb") as journal:
        inode = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{inode.st_dev}:{inode.st_ino}"}
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "operate"]
        process = subprocess.Popen(command, stderr=journal, env=environment)
    try:
        wait_for(lambda: '"started"' in Path(journal.name).read_text())
        process.send_signal(signal.SIGHUP)
        site.path.write_text("[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: '"reload_failed"' in Path(journal.name).read_text())
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    for line in Path(journal.name).read_text().splitlines():
        level = json.loads(line[3:])["level"]
        assert line[:3] == {"error": "<3>", "warning": "<4>", "info": "<6>"}[level]
