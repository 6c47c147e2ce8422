"""The views over HTTP: who may look, and that they are what the document says."""

from __future__ import annotations

import pytest

from registryd.http.views import NAMED, PLAIN, PREFIX
from registryd.store import keys
from tests.conftest import wait_for
from tests.contracts.documents import OPERATOR
from tests.http.conftest import Answer, Service, ask, exchange
from tests.views.conftest import FACTS

ONE = {"lanes": "m002", "reports": "notification_backlog"}
"""A name that each named view knows."""
PATHS = [*(f"{PREFIX}/{name}" for name in PLAIN), *(f"{PREFIX}/{name}/{ONE[name]}" for name in NAMED), f"{PREFIX}/find?id=m003"]


@pytest.fixture(scope="module", autouse=True)
def _crowded(service: Service) -> None:
    service.runner.run(service.dba.execute(FACTS))


def look(service: Service, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
    return ask(service.operator, method, path, headers=service.site.operator_headers if headers is None else headers)


def documented(path: str) -> dict[str, object]:
    """The schema of a view's answer."""
    path = path.partition("?")[0]
    known = path if path in OPERATOR.content["paths"] else f"{path.rpartition('/')[0]}/{{name}}"
    response = OPERATOR.content["paths"][known]["get"]["responses"]["200"]
    schema: dict[str, object] = response["content"]["application/json"]["schema"]
    return schema


@pytest.mark.parametrize("path", PATHS)
def test_each_view_answers_as_the_document_says(service: Service, path: str) -> None:
    answer = look(service, path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    OPERATOR.validator(documented(path)).validate(answer.body)


def test_head_answers_without_a_body(service: Service) -> None:
    lines = [
        f"HEAD {PREFIX}/duty HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Authorization: {service.site.operator_headers['Authorization']}",
    ]
    raw = exchange(service.operator, "\r\n".join([*lines, "", ""]).encode())
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


def test_a_key_without_the_scope_read_sees_nothing(service: Service) -> None:
    made = keys.new_key("ok")
    service.sql(
        "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ($1, 'billing', '{feed,act}', $2)",
        made.key_id,
        made.secret_sha256,
    )
    headers = {"Authorization": f"Bearer {made.shown}"}
    wait_for(lambda: look(service, PATHS[0], headers).status != 401)
    for path in PATHS:
        answer = look(service, path, headers)
        assert answer.status == 403, path
        assert answer.body["code"] == "PERMISSION_DENIED"
        assert look(service, path, {}).status == 401


@pytest.mark.parametrize("name", ["nobody", "m002/", "m002/x", "", "..", "%6d002", "m" * 80])
def test_what_is_no_name_of_anything_is_404(service: Service, name: str) -> None:
    answer = look(service, f"{PREFIX}/lanes/{name}")
    assert (answer.status, answer.body["code"]) == (404, "NOT_FOUND")


def test_views_are_only_read(service: Service) -> None:
    answer = look(service, f"{PREFIX}/lanes/m002", method="DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert look(service, f"{PREFIX}/duty?since=1").status == 400


@pytest.mark.parametrize(
    "query", ["", "?id=", "?id=%2B79160000000", "?id=79160000000", "?id=a%20b", f"?id={'m' * 65}", "?name=m003", "?id=a&id=b"]
)
def test_find_takes_an_id_or_a_name_and_no_number(service: Service, query: str) -> None:
    answer = look(service, f"{PREFIX}/find{query}")
    assert (answer.status, answer.body["code"]) == (400, "INVALID_ARGUMENT")
    assert b"7916" not in answer.raw
