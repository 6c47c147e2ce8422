"""The messenger API: its routes in one table, with what each allows a messenger in one process (README.md tells messengers)."""

from __future__ import annotations

from registryd.config import ApiSection
from registryd.domain.endpoint import EndpointRules
from registryd.domain.errors import PermissionDenied
from registryd.http import bodies, wire
from registryd.http.account import AccountHandlers
from registryd.http.admission import Admission
from registryd.http.app import App
from registryd.http.auth import Directory
from registryd.http.bindings import BindingHandlers, tell_binding
from registryd.http.changes import ChangeHandlers
from registryd.http.deliveries import DeliveryHandlers
from registryd.http.keys import KeyHandlers
from registryd.http.notifications import NotificationHandlers
from registryd.http.presence import PresenceHandlers
from registryd.http.refusals import Refusals
from registryd.http.routes import Budget, Route, Routes
from registryd.http.testnumbers import NumbersForTests
from registryd.presence.answerer import Answerer
from registryd.presence.quota import QuotaGuard
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

SINGLES = Budget(at_once=2_048)
"""Their queue bounds how long they wait, the daily quota how many there are."""
IDS_MAX_BYTES = 262_144
"""What two thousand ids may take, however their JSON is written."""


def messenger_app(
    limits: ApiSection,
    db: Database,
    directory: Directory,
    answerer: Answerer,
    quota: QuotaGuard,
    refusals: Refusals,
    endpoints: EndpointRules,
) -> App[Messenger]:
    """`db`: the small pool of the routes that no line answers."""
    presence, bindings = PresenceHandlers(directory, answerer), BindingHandlers(db, answerer, directory)
    notifications, account = NotificationHandlers(db), AccountHandlers(db, quota, directory)
    keys, deliveries, changes = KeyHandlers(db, directory), DeliveryHandlers(db), ChangeHandlers(db, directory, endpoints)
    single = Route("presence", presence.answer, SINGLES, wire.read_query, numbers=_one, tells_limits=False)
    batch = Route("presence_batch", presence.answer_batch, Budget(16), wire.read_batch, limits.body_max_bytes, numbers=len)
    binding = Route("bindings", bindings.record, SINGLES, wire.read_binding, numbers=_one, tells_limits=False)
    if limits.test_numbers:
        tests = NumbersForTests(presence, in_demo=limits.test_numbers == "demo")
        single, batch, binding = tests.single(single, presence.tell), tests.batch(batch), tests.single(binding, tell_binding)
    routes: Routes[Messenger] = {
        "/v1/presence": {"POST": single},
        "/v1/presence/batch": {"POST": batch},
        "/v1/bindings": {"POST": binding},
        "/v1/bindings/retrieve": {
            "POST": Route("bindings_retrieve", bindings.retrieve, Budget(64, 12_000), wire.read_code, shares_pool=True)
        },
        "/v1/bindings/remove": {"POST": Route("bindings_remove", bindings.remove, Budget(64, 12_000), wire.read_code, shares_pool=True)},
        "/v1/bindings/remove/batch": {
            "POST": Route(
                "bindings_remove_batch", bindings.remove_batch, Budget(4, 60), bodies.read_codes, limits.body_max_bytes, shares_pool=True
            )
        },
        "/v1/bindings/list": {"POST": Route("bindings_list", bindings.read, Budget(8, 1_200), bodies.read_page, shares_pool=True)},
        "/v1/notifications": {
            "GET": Route(
                "notifications",
                notifications.pull,
                Budget(64, 1_200),
                parameters=frozenset({"limit", "after"}),
                shares_pool=True,
                while_suspended=True,
            )
        },
        "/v1/notifications/acknowledge": {
            "POST": Route(
                "notifications_acknowledge",
                notifications.acknowledge,
                Budget(64, 3_000),
                wire.read_notification_ids,
                IDS_MAX_BYTES,
                shares_pool=True,
                while_suspended=True,
            )
        },
        "/v1/notifications/test": {
            "POST": Route("notifications_test", notifications.test, Budget(1, 10), wire.read_nothing, body_optional=True)
        },
        "/v1/notifications/attempts": {
            "GET": Route(
                "notifications_attempts",
                deliveries.attempts,
                Budget(4, 600),
                parameters=frozenset({"limit", "after"}),
                shares_pool=True,
                while_suspended=True,
            )
        },
        "/v1/notifications/replay": {
            "GET": Route("notifications_replays", deliveries.replays, Budget(4, 60), shares_pool=True, while_suspended=True),
            "POST": Route("notifications_replay", deliveries.replay, Budget(1, 10), bodies.read_window, shares_pool=True),
        },
        "/v1/account": {"GET": Route("account", account.show, Budget(64, 600), shares_pool=True, while_suspended=True)},
        "/v1/account/endpoint": {
            "POST": Route("account_endpoint", changes.endpoint, Budget(1, 10), bodies.read_endpoint, shares_pool=True)
        },
        "/v1/account/webhook-secret": {
            "POST": Route(
                "account_webhook_secret", changes.webhook_secret, Budget(1, 10), wire.read_nothing, body_optional=True, shares_pool=True
            )
        },
        "/v1/account/keys": {
            "GET": Route("account_keys", keys.read, Budget(4, 60), shares_pool=True, while_suspended=True),
            "POST": Route("account_keys_make", keys.make, Budget(1, 10), wire.read_nothing, body_optional=True, shares_pool=True),
        },
        "/v1/account/keys/revoke": {"POST": Route("account_keys_revoke", keys.revoke, Budget(1, 10), bodies.read_key_id, shares_pool=True)},
    }
    return App("messenger", limits, routes, Admission(directory, _may, quota.reserve, note=refusals.count, limits_of=quota.limits))


def _one(_: object) -> int:
    return 1


def _may(messenger: Messenger, route: Route[Messenger]) -> None:
    """Raises: PermissionDenied. What a suspended messenger is owed it may still learn: the duty is towards the subscriber."""
    if messenger.state == "suspended" and not route.while_suspended:
        raise PermissionDenied
