"""A notification on the wire: times truncated, ids steady, nothing told that the agreement does not say."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.notification import Notification, event, own_id, webhook_id, wire
from registryd.domain.push_queue import PushQueue
from registryd.domain.times import rfc3339

AT = datetime(2026, 1, 2, 3, 4, 5, 678_999, tzinfo=UTC)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=zones)  # noqa: DTZ001 # hypothesis adds the zone
notices = st.builds(
    Notification,
    deadline_at=times,
    notification_id=st.uuids(),
    msisdn=st.integers(10**10, 10**11 - 1),
    generation=st.integers(1, 32_767),
    identification_code=st.text(st.characters(min_codepoint=65, max_codepoint=90), min_size=1, max_size=9),
    terminated_at=times,
    recorded_at=times,
    attempts=st.integers(0, 9),
    undoes=st.none(),
)
pushes = st.lists(notices, min_size=1, max_size=5, unique_by=lambda notice: notice.notification_id)


def test_times_are_truncated_to_milliseconds_in_utc() -> None:
    assert rfc3339(AT) == "2026-01-02T03:04:05.678Z"
    assert rfc3339(AT.astimezone(timezone(timedelta(hours=3)))) == "2026-01-02T03:04:05.678Z"
    assert rfc3339(datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == "2026-12-31T23:59:59.999Z"
    assert rfc3339(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


@given(times)
def test_told_time_is_never_later_than_the_true_one_nor_a_millisecond_earlier(at: datetime) -> None:
    told = rfc3339(at)
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z", told)
    assert timedelta(0) <= at - datetime.fromisoformat(told) < timedelta(milliseconds=1)


@given(pushes, st.integers(0, 9), times)
def test_webhook_id_depends_on_which_notifications_and_on_nothing_else(push: list[Notification], attempts: int, at: datetime) -> None:
    again = [notice._replace(attempts=attempts, recorded_at=at) for notice in push]
    assert webhook_id(again) == webhook_id(push)
    assert re.fullmatch(r"msg_[0-9a-f]{32}", webhook_id(push))
    if len(push) > 1:
        assert len({webhook_id(push), webhook_id(push[:-1]), webhook_id(push[::-1]), *(webhook_id([one]) for one in push)}) == (
            len(push) + 2 + (len(push) > 2)
        )


def test_webhook_id_of_one_notification_is_its_own() -> None:
    notice = Notification(UUID(int=1), AT, 79161234567, 1, "u", AT, AT, 0)
    assert webhook_id([notice]) == "msg_00000000000000000000000000000001"


@given(pushes, st.booleans())
def test_content_is_the_same_at_every_attempt(push: list[Notification], with_phone_number: bool) -> None:
    first = event(push, with_phone_number=with_phone_number)
    retry = event([notice._replace(attempts=notice.attempts + 1) for notice in push], with_phone_number=with_phone_number)
    assert first == retry
    assert first["timestamp"] == max(rfc3339(notice.recorded_at) for notice in push)


@given(notices)
def test_number_is_told_only_where_the_agreement_says_so(notice: Notification) -> None:
    without, with_number = wire(notice, with_phone_number=False), wire(notice, with_phone_number=True)
    assert list(without) == ["notificationId", "identificationCode", "generation", "terminatedAt", "deadlineAt"]
    assert str(notice.msisdn) not in str(without).replace(str(notice.notification_id), "")
    assert with_number == {**without, "phoneNumber": f"+{notice.msisdn}"}
    assert own_id(without) == notice.notification_id


@given(notices, st.uuids(), st.booleans())
def test_what_undoes_a_notice_names_that_one_and_itself(notice: Notification, undone: UUID, with_phone_number: bool) -> None:
    undoing = notice._replace(undoes=undone)
    item = wire(undoing, with_phone_number=with_phone_number)
    assert list(item)[:6] == ["notificationId", "reinstatementId", "identificationCode", "generation", "reinstatedAt", "deadlineAt"]
    assert (item["notificationId"], item["reinstatementId"]) == (str(undone), str(notice.notification_id))
    assert own_id(item) == notice.notification_id
    told = event([undoing], with_phone_number=with_phone_number)
    assert (told["type"], event([notice], with_phone_number=with_phone_number)["type"]) == ("binding.reinstated", "binding.terminated")


@given(st.lists(notices, min_size=1, max_size=30, unique_by=lambda notice: notice.notification_id), st.data())
def test_a_push_holds_notices_of_one_type(rows: list[Notification], data: st.DataObject) -> None:
    rows = [row._replace(undoes=data.draw(st.none() | st.uuids())) for row in rows]
    queue = PushQueue(5)
    queue.put(rows)
    pushed: list[Notification] = []
    while queue:
        batch = queue.pop()
        assert len({row.type for row in batch}) == 1
        pushed += batch
    assert sorted(row.notification_id for row in pushed) == sorted(row.notification_id for row in rows)
