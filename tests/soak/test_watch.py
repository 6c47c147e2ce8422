"""What the soak calls growth, and what not."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.bench.load import Load, run_load
from tests.conftest import Site, wait_for
from tests.served import Served
from tests.soak.__main__ import answered
from tests.soak.watch import DEAD_FEW, DEAD_ROWS, Sample, Watch, is_bounded, no_more, slope


def every_five_seconds(values: list[float]) -> list[Sample]:
    return [Sample(place / 12, value) for place, value in enumerate(values)]


def test_what_a_process_takes_while_it_settles_is_no_growth() -> None:
    assert slope(every_five_seconds([100 + min(place, 20) for place in range(100)])) == pytest.approx(0)
    assert slope(every_five_seconds([100 + place / 12 for place in range(100)])) == pytest.approx(1)


def test_descriptors_that_are_never_given_back_are_found() -> None:
    assert no_more("some", every_five_seconds([50 + place % 40 for place in range(100)])).is_good
    assert not no_more("some", every_five_seconds([50 + 2 * place for place in range(100)])).is_good


def test_dead_rows_that_nobody_takes_away_are_found() -> None:
    many = 10 * DEAD_FEW
    assert is_bounded(every_five_seconds([place * many % (20 * many) for place in range(100)]))
    assert is_bounded(every_five_seconds([DEAD_FEW] * 100))
    assert not is_bounded(every_five_seconds([place * many for place in range(100)]))


def test_a_table_that_was_cleaned_is_seen_to_have_no_dead_rows(site: Site) -> None:
    async def look() -> dict[str, int]:
        async with site.database.connect() as connection:
            await connection.execute("CREATE TABLE registry.changing AS SELECT n FROM generate_series(1, 100) AS n")
            await connection.execute("DELETE FROM registry.changing")
            await connection.execute("VACUUM registry.changing")
            return dict(map(tuple, await connection.fetch(DEAD_ROWS)))

    assert asyncio.run(look())["registry.changing"] == 0


def test_queries_that_were_due_and_not_answered_are_found() -> None:
    assert answered([Load(950, 10.0, 1.0, 2.0)], 100.0, 0).is_good
    assert not answered([Load(949, 10.0, 1.0, 2.0)], 100.0, 0).is_good


def test_a_connection_that_is_closed_under_a_load_ends_it_with_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_the_first() -> None:
            first, second = listener.accept()[0], listener.accept()[0]
            first.close()
            while second.recv(65536):
                second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            second.close()

        serving = threading.Thread(target=close_the_first)
        serving.start()
        with pytest.raises(RuntimeError, match="closed"):
            run_load(f"http://127.0.0.1:{listener.getsockname()[1]}", "a key", [1], connections=2, seconds=0.3, rate=100)
        serving.join()


def test_a_process_that_has_ended_has_no_sample_and_ends_no_watch(site: Site) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        wait_for(lambda: "State:\tZ" in Path(f"/proc/{ended.pid}/status").read_text())  # it has no memory any more, and is there
        watch = Watch(Served(ended, Path("/dev/null")), site.database)
        watch._look("one", ended.pid, 0.0)
        ended.wait()
        watch._look("one", ended.pid, 1.0)
        assert watch.rss == watch.descriptors == {}
        assert watch._pids() == {}
