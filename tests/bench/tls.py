"""What TLS costs: single queries over kept connections beside plain HTTP, and handshakes beside OpenSSL alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from tests.bench.handshakes import run_handshakes
from tests.bench.measure import Figure, Sample, alternate, cpu_seconds
from tests.bench.queries import MESSENGERS, ask_numbers, hundred, load_contracts, measured
from tests.certificates import make_pair, put_certificate
from tests.conftest import Site, daemon, make_site

HANDSHAKES_S = 3.0
KEPT_S = 8.0
"""So long that opening the connections counts for little."""


def bench_tls(site: Site, contracts: int) -> Iterator[Figure]:
    """TLS 1.3 with a P-256 certificate, on the same database as plain HTTP and as a hundred messengers."""
    load_contracts(site, contracts)
    keys, numbers = hundred(site), ask_numbers(contracts)
    secure_site, ca = behind_tls(site)
    with daemon(site) as plain, daemon(secure_site) as secure:
        secure.scheme = "https"
        for connections in (64, 256):
            ask = partial(measured, site, key=keys, numbers=numbers, connections=connections, seconds=KEPT_S)
            taken = alternate(
                {
                    "plain": partial(ask, plain.process.pid, plain.api),
                    "TLS": partial(ask, secure.process.pid, secure.api, ca=ca),
                }
            )
            for how in ("TLS", "plain"):
                sample = taken[how]
                yield Figure(
                    what=f"single queries, {connections} connections, {MESSENGERS} messengers, {how} ({sample.rate:,.0f}/s)",
                    value=sample.cpu_s_per_1000,
                    unit="CPU s/1,000",
                    baseline=taken["plain"].cpu_s_per_1000,
                    of="CPU s/1,000 plain",
                    cpu_s_per_1000=sample.cpu_s_per_1000,
                    database_cpu_s_per_1000=sample.database_cpu_s_per_1000,
                    p99_ms=sample.p99_ms,
                    target="ratio ≤ 1.2" if how == "TLS" else None,
                )
        directory = secure_site.directory / "credentials"
        address = urlsplit(secure.api)

        def shaken(kind: str) -> Sample:
            began = cpu_seconds(secure.process.pid)
            done = run_handshakes(address.hostname, address.port, ca, HANDSHAKES_S, kind)
            used = cpu_seconds(secure.process.pid) - began
            return Sample(done.done / used, used / done.done * 1000)

        def alone() -> Sample:
            done = run_handshakes(directory / "tls-certificate", directory / "tls-key", ca, HANDSHAKES_S, "openssl")
            return Sample(done.done / done.cpu_s, done.cpu_s / done.done * 1000)

        taken = alternate({"full": partial(shaken, "full"), "resumed": partial(shaken, "resumed"), "OpenSSL": alone})
    for kind in ("full", "resumed"):
        yield Figure(
            what=f"{kind} handshakes, a connection each",
            value=taken[kind].rate,
            unit="/s of one core",
            baseline=taken["OpenSSL"].rate,
            of="full, OpenSSL alone",
            cpu_s_per_1000=taken[kind].cpu_s_per_1000,
            target="≥ 1,500/s" if kind == "full" else None,
        )


def behind_tls(site: Site) -> tuple[Site, str]:
    """The same registry with a certificate, and the file of the CA that issued it."""
    made = make_site(site.database, site.directory / "tls")
    shutil.copytree(site.directory / "credentials", made.directory / "credentials", dirs_exist_ok=True)
    ca = make_pair("bench CA")
    put_certificate(made, make_pair("registry", ca))
    made.write_config(log='level = "info"')
    return made, str(ca.write(made.directory, "ca")[0])
