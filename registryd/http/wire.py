"""Bodies: JSON in, checked field by field; JSON out.

orjson reads, msgspec checks. Unknown and repeated fields are refused, and a message says what is wanted where, never what was found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import orjson

from registryd.domain.contract import EventType, Holder, StatedEndUser
from registryd.domain.errors import InvalidArgument
from registryd.domain.identifiers import IdentificationCode, parse_code, parse_msisdn, parse_msisdns
from registryd.domain.presence import PresenceQuery
from registryd.http.problems import ERRORS_MAX
from registryd.http.reply import Reply

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Query(Body, frozen=True):
    """`POST /v1/presence`, and an item of a batch."""

    phoneNumber: str
    identificationCode: str | UnsetType = UNSET


class Binding(Body, frozen=True):
    phoneNumber: str
    identificationCode: str


class Code(Body, frozen=True):
    identificationCode: str


class Acknowledgement(Body, frozen=True):
    notificationIds: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]


class Empty(Body, frozen=True):
    pass


class ContractEvent(Body, frozen=True):
    eventId: str
    type: EventType
    phoneNumber: str
    occurredAt: str
    holder: Holder | UnsetType = UNSET
    endUser: StatedEndUser | UnsetType = UNSET


T = TypeVar("T", bound=Body)
Item = TypeVar("Item")


def read(raw: bytes, kind: type[T]) -> T:
    """The body as `kind`. Raises: InvalidArgument."""
    value = parse(raw)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_where(error)) from None


def read_items(raw: bytes, field: str, kind: type[T], items_max: int, parse_item: Callable[[T], Item]) -> list[Item]:
    """The items of `{field: [...]}`, 1 to `items_max`, each through `parse_item`. Raises: InvalidArgument, naming the first 20 bad ones."""
    value = parse(raw)
    if type(value) is not dict or list(value) != [field] or type(value[field]) is not list:
        raise InvalidArgument((field, f"the body is an object with the one field {field}, an array"))
    items = value[field]
    if not 1 <= len(items) <= items_max:
        raise InvalidArgument((field, f"1 to {items_max} items"))
    try:
        return [parse_item(item) for item in msgspec.convert(items, list[kind])]  # type: ignore[valid-type] # a type made at run time
    except (msgspec.ValidationError, InvalidArgument):
        raise InvalidArgument(*_bad_items(items, field, kind, parse_item)) from None


def _bad_items(items: list[Any], field: str, kind: type[T], parse_item: Callable[[T], Item]) -> list[tuple[str, str]]:
    bad: list[tuple[str, str]] = []
    for index, item in enumerate(items):
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
    queries: list[Query]


_QUERY = msgspec.json.Decoder(Query)
_BATCH = msgspec.json.Decoder(Batch)


def read_query(raw: bytes) -> PresenceQuery:
    """The body of `POST /v1/presence`, read in one pass where nothing is wrong with it. Raises: InvalidArgument."""
    try:
        item = _QUERY.decode(raw)
        if b"\\" not in raw and raw.count(b":") == _colons(item):  # no field stands twice
            return _query(item)
    except (msgspec.MsgspecError, ValueError):
        pass
    return presence_query(read(raw, Query))


def read_batch(raw: bytes, queries_max: int) -> list[PresenceQuery]:
    """The body of `POST /v1/presence/batch`, likewise. Raises: InvalidArgument, naming the first 20 bad items."""
    try:
        items = _BATCH.decode(raw).queries
        if 1 <= len(items) <= queries_max and b"\\" not in raw:
            msisdns = parse_msisdns([item.phoneNumber for item in items])
            codes = [item.identificationCode for item in items]
            if codes.count(UNSET) == len(codes) and raw.count(b":") == 1 + len(items):
                return list(map(PresenceQuery, msisdns))
            if raw.count(b":") == 1 + sum(map(_colons, items)):
                return list(map(PresenceQuery, msisdns, map(_code, items)))
    except (msgspec.MsgspecError, ValueError):
        pass
    return read_items(raw, "queries", Query, queries_max, presence_query)


def _query(item: Query) -> PresenceQuery:
    return PresenceQuery(parse_msisdn(item.phoneNumber), _code(item))


def _code(item: Query) -> IdentificationCode | None:
    code = item.identificationCode
    return None if code is UNSET else parse_code(code)


def _colons(item: Query) -> int:
    """How many colons an item's JSON has where no field stands twice and nothing is escaped: one a field, and those inside its strings."""
    code = item.identificationCode
    return item.phoneNumber.count(":") + (1 if code is UNSET else 2 + code.count(":"))


def presence_query(item: Query | Binding) -> PresenceQuery:
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


def parse(raw: bytes) -> Any:
    """JSON without repeated fields. Raises: InvalidArgument."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidArgument(("", "the body must be one JSON value in UTF-8")) from None
    if _may_repeat_fields(raw, value):
        try:
            json.loads(raw, object_pairs_hook=_unique)
        except RecursionError:
            raise InvalidArgument(("", "the body is nested too deeply")) from None
    return value


def _may_repeat_fields(raw: bytes, value: Any) -> bool:
    """False where counting colons proves that no field was repeated: each stands for a field, or is inside a string.

    Costs a microsecond where a second parse would cost as much as the request. An escape may hide a colon, so it decides nothing.
    """
    if b"\\" in raw:
        return True
    colons = fields = 0
    stack = [value]
    while stack:
        node = stack.pop()
        if type(node) is dict:
            fields += len(node)
            for name, child in node.items():
                colons += name.count(":")
                stack.append(child)
        elif type(node) is list:
            stack += node
        elif type(node) is str:
            colons += node.count(":")
    return raw.count(b":") != colons + fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidArgument(("", "a field stands twice in one object"))
    return dict(pairs)


_AT = re.compile(r" - at `\$\.?(.*)`\Z")


def _where(error: msgspec.ValidationError) -> tuple[str, str]:
    """(path, what is wanted): msgspec's message without a name that the client chose."""
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
