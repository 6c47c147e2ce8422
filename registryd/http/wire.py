"""JSON bodies, in and out. msgspec checks them field by field.

Unknown fields are refused. A message says what is wanted where, never what was found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import orjson

from registryd.domain.contract import EventType, Holder, StatedEndUser
from registryd.domain.errors import InvalidArgument
from registryd.domain.identifiers import IdentificationCode, Msisdn, parse_code, parse_msisdn, parse_msisdns
from registryd.domain.presence import PresenceQueries, PresenceQuery, by_columns
from registryd.http.problems import ERRORS_MAX
from registryd.http.reply import Reply
from registryd.presence.answerer import BATCH_MAX_QUERIES

PART_ITEMS = 250
"""How many items are read at once: a millisecond or two."""
BOUND_AGAIN_MAX = 100
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class QueryBody(Body, frozen=True, gc=False):
    """`POST /v1/presence`, and an item of a batch."""

    phoneNumber: str
    identificationCode: str | UnsetType | None = UNSET
    """None as serializers write an optional that is empty: as if it were left out."""


class Binding(Body, frozen=True):
    phoneNumber: str
    identificationCode: str


class Code(Body, frozen=True):
    identificationCode: str


class Acknowledgement(Body, frozen=True):
    """One of the two at least."""

    notificationIds: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)] | UnsetType = UNSET
    reinstatementIds: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)] | UnsetType = UNSET


class Empty(Body, frozen=True):
    pass


class ContractEvent(Body, frozen=True, gc=False):
    eventId: str
    type: EventType
    phoneNumber: str
    occurredAt: str
    holder: Holder | UnsetType | None = UNSET
    endUser: StatedEndUser | UnsetType | None = UNSET


T = TypeVar("T", bound=Body)
Item = TypeVar("Item")


def read(raw: bytes, kind: type[T]) -> T:
    """The body as `kind`. Raises: InvalidArgument."""
    value = _parse(raw)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_where(error)) from None


def read_items(raw: bytes, field: str, kind: type[T], items_max: int, parse_item: Callable[[T], Item]) -> Iterator[list[Item]]:
    """The items of `{field: [...]}`, 1 to `items_max`, each through `parse_item`: in parts, between which a caller may give way.

    Raises: InvalidArgument, at the end and naming the first 20 bad ones.
    """
    value = _parse(raw)
    if type(value) is not dict or list(value) != [field] or type(value[field]) is not list:
        raise InvalidArgument((field, f"the body is an object with the one field {field}, an array"))
    items = value[field]
    if not 1 <= len(items) <= items_max:
        raise InvalidArgument((field, f"1 to {items_max} items"))
    bad: list[tuple[str, str]] = []
    for start in range(0, len(items), PART_ITEMS):
        part = items[start : start + PART_ITEMS]
        try:
            yield [parse_item(item) for item in msgspec.convert(part, list[kind])]  # type: ignore[valid-type] # a type made at run time
        except (msgspec.ValidationError, InvalidArgument):
            bad += _bad_items(part, start, field, kind, parse_item)
            if len(bad) >= ERRORS_MAX:
                break
    if bad:
        raise InvalidArgument(*bad)


def _bad_items(items: list[Any], start: int, field: str, kind: type[T], parse_item: Callable[[T], Item]) -> list[tuple[str, str]]:
    bad: list[tuple[str, str]] = []
    for index, item in enumerate(items, start):
        try:
            parse_item(msgspec.convert(item, kind))
        except msgspec.ValidationError as error:
            found: Sequence[tuple[str, str]] = (_where(error),)
        except InvalidArgument as error:
            found = error.errors
        else:
            continue
        bad += [(f"{field}[{index}]{'.' if path else ''}{path}", message) for path, message in found]
        if len(bad) >= ERRORS_MAX:
            break
    return bad


class Batch(Body, frozen=True):
    queries: list[QueryBody]


class Events(Body, frozen=True):
    events: list[ContractEvent]


_QUERY = msgspec.json.Decoder(QueryBody)
_BATCH = msgspec.json.Decoder(Batch)
_EVENTS = msgspec.json.Decoder(Events)


def read_query(raw: bytes) -> PresenceQuery:
    """The body of `POST /v1/presence`, read in one pass where nothing is wrong with it. Raises: InvalidArgument."""
    try:
        item = _QUERY.decode(raw)
        return PresenceQuery(parse_msisdn(item.phoneNumber), _code(item))
    except (msgspec.MsgspecError, ValueError):
        return presence_query(read(raw, QueryBody))


def read_batch(raw: bytes) -> PresenceQueries:
    """The body of `POST /v1/presence/batch`, likewise. Raises: InvalidArgument, naming the first 20 bad items."""
    try:
        items = _BATCH.decode(raw).queries
        if 1 <= len(items) <= BATCH_MAX_QUERIES:
            msisdns = parse_msisdns([item.phoneNumber for item in items])
            codes = [item.identificationCode for item in items]
            if codes.count(UNSET) == len(codes):
                return PresenceQueries(msisdns)
            return _bounded(map(PresenceQuery, msisdns, map(_code, items)))
    except (msgspec.MsgspecError, ValueError):
        pass
    return _bounded(query for part in read_items(raw, "queries", QueryBody, BATCH_MAX_QUERIES, presence_query) for query in part)


def read_events(raw: bytes, items_max: int, parse_event: Callable[[ContractEvent], Item]) -> Iterator[list[Item]]:
    """The body of a call of events, likewise, in parts between which a caller may give way. Raises: InvalidArgument, at the end."""
    try:
        items = _EVENTS.decode(raw).events
        if 1 <= len(items) <= items_max:
            for start in range(0, len(items), PART_ITEMS):
                yield [parse_event(item) for item in items[start : start + PART_ITEMS]]
            return
    except (msgspec.MsgspecError, InvalidArgument):
        pass
    yield from read_items(raw, "events", ContractEvent, items_max, parse_event)


def _bounded(queries: Iterable[PresenceQuery]) -> PresenceQueries:
    """The same. Raises: InvalidArgument, where one number or code would be bound again and again, each time by a statement of its own."""
    columns = by_columns(queries)
    bound = [(msisdn, code) for msisdn, code in zip(columns.msisdns, columns.codes or (), strict=False) if code is not None]
    names: Counter[Msisdn | IdentificationCode] = Counter(msisdn for msisdn, _ in bound)
    names.update(code for _, code in bound)
    if names and max(names.values()) > BOUND_AGAIN_MAX:
        raise InvalidArgument(("queries", f"one number or code stands in more than {BOUND_AGAIN_MAX} items that bind"))
    return columns


def read_binding(raw: bytes) -> PresenceQuery:
    """The body of `POST /v1/bindings`. Raises: InvalidArgument."""
    return presence_query(read(raw, Binding))


def read_code(raw: bytes) -> IdentificationCode:
    """Raises: InvalidArgument."""
    try:
        return parse_code(read(raw, Code).identificationCode)
    except ValueError as error:
        raise InvalidArgument(("identificationCode", str(error))) from None


def read_notification_ids(raw: bytes) -> list[UUID]:
    """The ids in order, without repeated ones. Raises: InvalidArgument."""
    body = read(raw, Acknowledgement)
    given = {"notificationIds": body.notificationIds or [], "reinstatementIds": body.reinstatementIds or []}
    texts = [(f"{field}[{place}]", text) for field, ids in given.items() for place, text in enumerate(ids)]
    if not texts:
        raise InvalidArgument(("notificationIds", "this field, or reinstatementIds, is wanted"))
    bad = [path for path, text in texts if UUID_TEXT.fullmatch(text) is None]
    if bad:
        raise InvalidArgument(*((path, "must be a UUID, as notifications carry it") for path in bad))
    return sorted({UUID(text) for _, text in texts})


def read_nothing(raw: bytes) -> None:
    """An empty body, or an empty object. Raises: InvalidArgument."""
    read(raw or b"{}", Empty)


def presence_query(item: QueryBody | Binding) -> PresenceQuery:
    """Raises: InvalidArgument."""
    try:
        msisdn = parse_msisdn(item.phoneNumber)
    except ValueError as error:
        raise InvalidArgument(("phoneNumber", str(error))) from None
    code = item.identificationCode
    try:
        return PresenceQuery(msisdn, parse_code(code) if isinstance(code, str) else None)
    except ValueError as error:
        raise InvalidArgument(("identificationCode", str(error))) from None


def _code(item: QueryBody) -> IdentificationCode | None:
    code = item.identificationCode
    return parse_code(code) if isinstance(code, str) else None


def _parse(raw: bytes) -> Any:
    """Of a field that stands twice the last one counts, as in most readers of JSON. Raises: InvalidArgument."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidArgument(("", "the body must be one JSON value in UTF-8")) from None


_AT = re.compile(r" - at `\$\.?(.*)`\Z")


def _where(error: msgspec.ValidationError) -> tuple[str, str]:
    """The path and what is wanted there: msgspec's message without any name that the client chose."""
    text = str(error)
    at = _AT.search(text)
    path = at.group(1) if at else ""
    what = text[: at.start()] if at else text
    if "unknown field" in what:
        return path, "a field here is not known"
    if "Invalid enum value" in what:
        return path, "is none of the known values"
    return path, what[:1].lower() + what[1:].replace("`", "")


def json_response(payload: object, status: int = 200) -> Reply:
    return Reply(orjson.dumps(payload), status)
