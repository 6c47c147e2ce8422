"""Each API shows its own document without a key, and the page that shows it asks no other host for anything."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256

import pytest
from aiohttp.test_utils import make_mocked_request

from registryd import resources
from registryd.domain.errors import TooManyCalls
from registryd.http.documents import PART_BYTES, PER_MINUTE, Documents
from tests.console.chromium import EXECUTABLE, MISSING, chromium, overflow
from tests.http.conftest import Service, ask

REDOC_SHA256 = "dcaf76612bc4a3fbcc923a8966dee2f6146a5f32e5ce1b6f02dd60cbbf89500b"
"""bundles/redoc.standalone.js of npm's redoc 2.5.4."""


def bases(service: Service) -> dict[str, str]:
    return {"messenger": service.api, "operator": service.operator}


@pytest.mark.parametrize("api", ["messenger", "operator"])
def test_each_api_gives_its_own_document_to_whoever_asks(service: Service, api: str) -> None:
    answer = ask(bases(service)[api], "GET", "/openapi.yaml")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/yaml")
    assert answer.raw == resources.path(f"registryd/http/{api}.yaml").read_bytes()
    assert answer.headers["x-correlator"]


@pytest.mark.parametrize("path", ["/openapi.yaml", "/docs", "/docs/redoc.js"])
def test_who_has_the_document_is_told_that_it_is_the_same(service: Service, path: str) -> None:
    first = ask(service.api, "GET", path)
    assert first.headers["cache-control"] == "public, max-age=300"
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = ask(service.api, "GET", path, headers={"If-None-Match": known})
        assert (again.status, again.raw, again.headers["etag"]) == (304, b"", tag)
    assert ask(service.api, "GET", path, headers={"If-None-Match": '"other"'}).raw == first.raw
    head = ask(service.api, "HEAD", path)
    assert (head.status, head.raw, head.headers["content-length"]) == (200, b"", str(len(first.raw)))


@pytest.mark.parametrize("api", ["messenger", "operator"])
def test_the_page_may_ask_no_other_host(service: Service, api: str) -> None:
    base = bases(service)[api]
    page = ask(base, "GET", "/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(directive.strip().split(" ", 1) for directive in page.headers["content-security-policy"].split(";"))
    assert policy.pop("style-src") == "'unsafe-inline'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} <= {"'none'", "'self'", "data:", "blob:"}
    fetched = set(re.findall(r'(?:src|spec-url|href)="([^"]+)"', page.raw.decode())) - {"data:,"}
    assert fetched == {"/openapi.yaml", "/docs/redoc.js"}
    for path in fetched:
        assert ask(base, "GET", path).status == 200
    assert f"the {api} API".encode() in page.raw


@pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)
def test_the_page_shows_the_document_in_a_browser_and_fits(service: Service) -> None:
    fetched: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("requestfinished", lambda request: fetched.append(request.url))
        for width in (1400, 420):
            page.set_viewport_size({"width": width, "height": 1000})
            page.goto(f"{service.api}/docs")
            page.get_by_role("heading", name="Ask whether a number is present").wait_for()
            assert overflow(page) == 0, width
    assert {url for url in fetched if not url.startswith((service.api, f"blob:{service.api}", "data:"))} == set()


def test_the_page_s_script_is_the_one_that_npm_has() -> None:
    script = resources.path("registryd/http/docs/redoc.standalone.js.gz").read_bytes()
    assert sha256(gzip.decompress(script)).hexdigest() == REDOC_SHA256
    assert "MIT License" in resources.path("registryd/http/docs/redoc.LICENSE").read_text("utf-8")


def test_the_document_is_only_read(service: Service) -> None:
    answer = ask(service.api, "POST", "/openapi.yaml", {})
    assert (answer.status, answer.headers["allow"], answer.body["code"]) == (405, "GET, HEAD", "METHOD_NOT_ALLOWED")


def test_whoever_asks_for_a_path_that_is_not_there_is_told_of_the_document(service: Service) -> None:
    for base in bases(service).values():
        answer = ask(base, "GET", "/v1")
        assert (answer.status, answer.body["code"]) == (404, "NOT_FOUND")
        assert "GET /openapi.yaml" in answer.body["detail"]


def test_all_clients_together_may_read_so_much_in_a_minute() -> None:
    documents = Documents("messenger", lambda: 0.0)
    script = make_mocked_request("GET", "/docs/redoc.js")
    sent = 0
    refused = None
    while refused is None:
        try:
            sent += len(documents.answer(script).body)
        except TooManyCalls as error:
            refused = error
    assert 20_000_000 < sent <= PER_MINUTE * PART_BYTES
    assert 1 <= refused.retry_after_s <= 3
