"""Keys that prove nothing, and what a suspended messenger may still do."""

from __future__ import annotations

import time

from registryd.store.keys import new_key
from tests.http.bad_input.conftest import GOOD, ROUTES, SECRET, Api


def keys(api: Api) -> dict[str, tuple[str | bytes, ...]]:
    """Authorization headers that prove nothing."""
    _, key_id, secret = api.messenger.api_key.split("_", 2)
    _, other_id, other_secret = api.service.messenger().api_key.split("_", 2)
    good = f"Authorization: Bearer {api.messenger.api_key}"
    return {
        "none": (),
        "empty": ("Authorization: ",),
        "two": (good, good),
        "two, one of them wrong": (good, f"Authorization: Bearer rk_{key_id}_{SECRET}"),
        "two in one": (f"{good}, Bearer rk_{key_id}_{SECRET}",),
        "another scheme": (f"Authorization: Basic {SECRET}",),
        "no scheme": (f"Authorization: {api.messenger.api_key}",),
        "no secret": (f"Authorization: Bearer rk_{key_id}_",),
        "no id": (f"Authorization: Bearer rk__{secret}",),
        "not a key": (f"Authorization: Bearer {SECRET}",),
        "blank before": (f"Authorization: Bearer  {api.messenger.api_key}",),
        "longer": (f"{good}okapi",),
        "shorter": (good[:-1],),
        "long": (f"Authorization: Bearer rk_{key_id}_{'okapi' * 100}",),
        "not ASCII": (b"Authorization: Bearer rk_\xff\xfe_okapi",),
        "unknown id": (f"Authorization: Bearer rk_okapiokapiokapi2_{secret}",),
        "wrong secret": (f"Authorization: Bearer rk_{key_id}_{SECRET}",),
        "another's secret": (f"Authorization: Bearer rk_{key_id}_{other_secret}",),
        "another's id": (f"Authorization: Bearer rk_{other_id}_{secret}",),
        "the operator's token": (f"Authorization: Bearer {api.service.site.operator_key.shown}",),
        "in another header": (f"X-Api-Key: {api.messenger.api_key}",),
    }


def test_a_key_that_proves_nothing_is_refused_whatever_is_wrong_with_it(api: Api) -> None:
    first = api.refused(GOOD, status=401, code="UNAUTHENTICATED", authorization=())
    for kind, authorization in keys(api).items():
        for path, method in ROUTES.items():
            body = GOOD if method == "POST" else None
            answer = api.refused(body, path, 401, "UNAUTHENTICATED", method=method, authorization=authorization)
            assert answer.body == first.body, kind
            assert answer.headers["www-authenticate"] == "Bearer", kind
    assert api.recorded() == 0


def test_who_is_not_known_learns_nothing_about_the_request(api: Api) -> None:
    for how in ({"headers": ("Content-Type: text/zebra",)}, {"framing": "Content-Length: 999999999"}, {"path": "/v1/presence?zebra=1"}):
        api.refused(b"", status=401, code="UNAUTHENTICATED", authorization=(), **how)


def test_a_revoked_key_is_refused_within_5_seconds(own_api: Api) -> None:
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    assert own_api.send(GOOD).status == 200
    own_api.service.sql("UPDATE registry.messenger_key SET revoked_at = now() WHERE key_id = $1", key_id)
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED")


def test_an_expired_key_is_refused_and_its_successor_is_not(own_api: Api) -> None:
    key = new_key()
    own_api.service.sql(
        "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) VALUES ($1, $2, $3)",
        key.key_id,
        own_api.messenger.messenger_id,
        key.secret_sha256,
    )
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    own_api.service.sql("UPDATE registry.messenger_key SET expires_at = now() + interval '1 s' WHERE key_id = $1", key_id)
    own_api.service.reload()
    successor = (f"Authorization: Bearer {key.shown}",)
    assert (own_api.send(GOOD).status, own_api.send(GOOD, authorization=successor).status) == (200, 200), "two keys overlap"
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED")
    assert own_api.send(GOOD, authorization=successor).status == 200


WHILE_SUSPENDED = ("/v1/notifications", "/v1/notifications/acknowledge", "/v1/account")


def test_a_suspended_messenger_may_learn_what_it_is_owed_and_nothing_else(own_api: Api) -> None:
    assert own_api.send(GOOD).status == 200
    held = own_api.recorded()
    own_api.service.sql(
        "UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", own_api.messenger.messenger_id
    )
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    held = own_api.recorded()
    for path, method in ROUTES.items():
        if path not in WHILE_SUSPENDED:
            own_api.refused(GOOD if method == "POST" else None, path, 403, "PERMISSION_DENIED", method=method)
    assert own_api.send(None, "/v1/notifications", method="GET").body == {"notifications": [], "next": None}
    body = b'{"notificationIds": ["00000000-0000-0000-0000-000000000000"]}'
    assert own_api.send(body, "/v1/notifications/acknowledge").body == {"acknowledged": 0}
    assert own_api.send(None, "/v1/account", method="GET").status == 200
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED", authorization=(f"Authorization: Bearer rk_{key_id}_{SECRET}",))
    assert own_api.recorded() == held
