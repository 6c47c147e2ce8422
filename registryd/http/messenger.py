"""The messenger API: its routes in one table."""

from __future__ import annotations

from registryd.http.account import AccountHandlers
from registryd.http.app import App, Route
from registryd.http.bindings import BindingHandlers
from registryd.http.notifications import NotificationHandlers
from registryd.http.presence import PresenceHandlers
from registryd.http.services import Services
from registryd.store.messengers import Messenger

NOBODY = Messenger(0, "", "active", None, 1, False, None, [])  # type: ignore[arg-type] # no route of this API serves it


def messenger_app(services: Services) -> App[Messenger]:
    presence, bindings = PresenceHandlers(services), BindingHandlers(services)
    notifications, account = NotificationHandlers(services), AccountHandlers(services)
    routes = {
        "/v1/presence": {"POST": Route("presence", presence.answer)},
        "/v1/presence/batch": {"POST": Route("presence_batch", presence.answer_batch)},
        "/v1/bindings": {"POST": Route("bindings", bindings.record)},
        "/v1/bindings/retrieve": {"POST": Route("bindings_retrieve", bindings.retrieve)},
        "/v1/bindings/remove": {"POST": Route("bindings_remove", bindings.remove)},
        "/v1/notifications": {"GET": Route("notifications", notifications.pull, parameters=frozenset({"limit", "after"}))},
        "/v1/notifications/acknowledge": {"POST": Route("notifications_acknowledge", notifications.acknowledge)},
        "/v1/notifications/test": {"POST": Route("notifications_test", notifications.test)},
        "/v1/account": {"GET": Route("account", account.show)},
    }
    return App("messenger", routes, services.directory.authenticate, NOBODY)
