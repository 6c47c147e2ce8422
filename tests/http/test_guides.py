"""What the guides for messengers' and billing's engineers say is so: their first commands work, and their numbers are the code's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from registryd import resources
from registryd.delivery.push import CONNECT_TIMEOUT_S, CONTENT_REFUSED, TOTAL_TIMEOUT_S
from registryd.demo import embedded
from registryd.domain.schedule import PROBE_MAX, REFUSED_OVERDUE_GAP, next_attempt_of_refused, next_probe
from tests.conftest import cloned, daemon, make_site
from tests.contracts.documents import MESSENGER, OPERATOR, routes
from tests.http.conftest import Service, serving

GUIDES = ("http/README.md", "http/README.ru.md", "feed/README.md")
ENGLISH, RUSSIAN, FEED = (resources.path(f"registryd/{name}").read_text("utf-8") for name in GUIDES)
WIRE, WIRE_OF_BILLING = MESSENGER.content["info"]["description"], OPERATOR.content["info"]["description"]


@pytest.fixture(scope="module")
def trying(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service where test numbers are on."""
    with cloned(server, template) as database:
        site = make_site(database, tmp_path_factory.mktemp("trying"))
        site.write_config(api='listen = "127.0.0.1:0"\ntest_numbers = true')
        with daemon(site) as started, serving(site, started) as service:
            yield service


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def paste(commands: str, place: Path, base: str, key: str) -> str:
    """What they print, with the address and the key filled in."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    filled = re.sub(r"(?m)^export API=.*$", "", commands)
    environment = {"API": base, "KEY": key, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(place)}
    done = subprocess.run(["bash", "-euc", filled], cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("text", [WIRE, ENGLISH, RUSSIAN], ids=["document", "english", "russian"])
def test_the_first_query_of_each_guide_is_answered_as_it_says(trying: Service, tmp_path: Path, text: str) -> None:
    answer = json.loads(paste(blocks(text, "sh")[0], tmp_path, trying.api, trying.messenger().api_key))
    assert (answer["present"], answer["binding"]) == (True, "recorded")
    for shown in blocks(text, "json")[:1]:
        assert set(json.loads(shown)) == set(answer)
        assert shown.startswith(json.dumps({"queryId": answer["queryId"][:24]})[:-2])


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN], ids=["english", "russian"])
def test_the_next_commands_show_the_account_and_fetch_the_document(trying: Service, tmp_path: Path, text: str) -> None:
    messenger = trying.messenger()
    told = paste(blocks(text, "sh")[1], tmp_path, trying.api, messenger.api_key)
    assert f'"name":"{messenger.name}"' in told
    assert "you have no endpoint to push to" in told
    assert (tmp_path / "messenger.yaml").read_bytes() == MESSENGER.path.read_bytes()


@pytest.mark.parametrize("text", [WIRE_OF_BILLING, FEED], ids=["document", "guide"])
def test_billing_s_first_event_is_applied(service: Service, tmp_path: Path, text: str) -> None:
    answer = json.loads(paste(blocks(text, "sh")[0], tmp_path, service.operator, service.site.operator_key.shown))
    assert [result["outcome"] for result in answer["results"]] == ["applied"]
    for shown in blocks(text, "json")[:1]:
        assert json.loads(shown) == answer


def test_the_russian_guide_has_the_commands_of_the_english_one() -> None:
    assert blocks(RUSSIAN, "sh")[:2] == blocks(ENGLISH, "sh")[:2]
    assert blocks(RUSSIAN, "json")[:1] == blocks(ENGLISH, "json")[:1]


def test_the_guide_s_budgets_are_those_of_the_routes() -> None:
    every, seen = routes()["messenger"], set[str]()
    table = ENGLISH[ENGLISH.index("| Route |") :].partition("\n\n")[0].replace(",", "")
    for line in table.splitlines()[2:]:
        names, *told = line.strip("|").split("|")
        for method, path in re.findall(r"`(?:(GET|POST) )?(\S+)`", names):
            seen.add(path)
            for budget in {route.budget for verb, route in every[path].items() if method in ("", verb)}:
                assert [numbers(cell)[:1] for cell in told] == [[budget.at_once], [budget.per_minute] if budget.per_minute else []], path
    assert seen == set(every)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[0-9]+(?:\.[0-9]+)?", text)]


def test_the_guide_s_waits_between_pushes_are_the_code_s() -> None:
    failing, refusing = (row.split("|") for row in ENGLISH.splitlines() if row.startswith(("| fails:", "| refuses the content:")))
    assert numbers(failing[2]) == [next_probe(failures, 1.0).total_seconds() for failures in range(1, 8)]
    assert numbers(failing[3]) == [next_probe(1, 0.0).total_seconds()]
    assert numbers(failing[4]) == [429, 503, PROBE_MAX.total_seconds(), 410, PROBE_MAX.total_seconds()]
    fresh = timedelta(hours=23)
    assert numbers(refusing[1]) == list(CONTENT_REFUSED)
    assert numbers(refusing[2]) == [next_attempt_of_refused(fresh, attempts, 1.0).total_seconds() for attempts in range(1, 9)]
    assert numbers(refusing[3]) == [next_attempt_of_refused(fresh, 1, 0.0).total_seconds()]
    hours = {2: "180 s when two\nhours are left", 0.5: "30 s in the last hour"}
    for left, said in hours.items():
        assert said in ENGLISH
        assert next_attempt_of_refused(timedelta(hours=left), 20, 1.0).total_seconds() == numbers(said)[0]
    assert timedelta(hours=1) == REFUSED_OVERDUE_GAP


def test_the_document_s_waits_between_pushes_are_the_code_s() -> None:
    text = " ".join(WIRE[WIRE.index("### Retries") : WIRE.index("### The daily digest")].split())
    said = re.search(r"a random part of ([0-9, and the lways]+) seconds", text)
    assert said is not None
    assert numbers(said[1]) == [next_probe(failures, 1.0).total_seconds() for failures in range(1, 8)]
    assert f"up to {PROBE_MAX.total_seconds():g} seconds" in text
    refused = [next_attempt_of_refused(timedelta(hours=23), attempts, 1.0).total_seconds() for attempts in (1, 2, 20)]
    assert refused == [4, 2 * 4, 5 * 60]
    assert "after 4 seconds at most, and each time twice as long, up to 5 minutes" in text
    for guide in (" ".join(ENGLISH.split()), " ".join(WIRE.split())):
        assert f"{CONNECT_TIMEOUT_S:g} seconds" in guide
        assert f"{TOTAL_TIMEOUT_S:g} " in guide
