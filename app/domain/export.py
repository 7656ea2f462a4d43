"""An export: what bounds it, how far it has come, and the cursors by which it goes on.

Everything in it follows from its bounds, which are fixed when it begins. So whoever goes on behind any
cursor gets, byte for byte, what would have come without the interruption (docs/decisions/0025).
"""

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.audit import Head
from app.domain.search import Filters

FORMAT_VERSION = 1

CURSOR_LINES = 200
CURSOR_BYTES = 4 << 20
"""A cursor follows so many lines, or so many bytes, whichever comes first: what a break costs at most."""

NOTHING = UUID(int=0)

_CURSOR_OPEN, _CURSOR_SHUT = b'{"object":"export.cursor","cursor":"', b'"}\n'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Version; id, tenant, filters; before, until, both ends of the trail's segment. Then how far it has come. The
# length is a multiple of three, so that base64 spells it in one way.
_EXPORT = struct.Struct(">B2x16sq16sq16sq32sq32s?")
_PLACE = struct.Struct(">16sqqqq32s")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What belongs to an export: settled when it begins, whatever comes later."""

    before: datetime
    """Responses that ended before this, by Postgres's clock."""
    until: UUID
    """The last response that was there; `NOTHING` where there was none."""
    audit_after: Head
    """What the segment of the trail begins behind."""
    audit_until: Head
    """The end of the segment."""
    is_vouched: bool
    """Whether there is a checkpoint of its end; one that is made later does not belong to it."""


@dataclass(frozen=True, slots=True)
class Export:
    """One export: whose, of what, and within which bounds."""

    id: UUID
    tenant_id: int
    filters: Filters
    bounds: Bounds

    @property
    def name(self) -> str:
        """As the trail and the manifest call it."""
        return f"exp_{self.id.hex}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a response ended; `finished_at` is None where it still runs."""

    finished_at: datetime | None
    attempts: int


@dataclass(slots=True)
class Place:
    """How far an export has come."""

    response: UUID = NOTHING
    """The last response that was said."""
    seq: int = 0
    """The last audit record that was said."""
    responses: int = 0
    audit_records: int = 0
    size: int = 0
    """Bytes that were said."""
    chain: bytes = bytes(32)
    """SHA-256 of the one before and of every byte since it; see `Chain`."""


@dataclass(slots=True)
class Chain:
    """Bytes as they are said: counted, and hashed so that 32 bytes are enough to go on from.

    SHA-256 itself cannot be written down halfway. So each cursor closes a link: the hash of the link before
    and of all bytes since then, beginning with the line of that cursor.
    """

    place: Place
    lines: int = 0
    """Since the last cursor."""
    size: int = 0
    """Bytes since the last cursor."""
    _link: Any = field(default=None)

    def __post_init__(self) -> None:
        self._link = hashlib.sha256(self.place.chain)

    @property
    def is_due(self) -> bool:
        """Whether it is time for a cursor."""
        return self.lines >= CURSOR_LINES or self.size >= CURSOR_BYTES

    def add(self, line: bytes) -> bytes:
        self._link.update(line)
        self.place.size += len(line)
        self.lines, self.size = self.lines + 1, self.size + len(line)
        return line

    def close(self) -> None:
        """End a link: its hash is the place's from now on."""
        self.place.chain = self._link.digest()
        self._link = hashlib.sha256(self.place.chain)

    def open(self, cursor: str) -> bytes:
        """Begin a link with the line of the cursor that was made of this place."""
        line = self.add(cursor_line(cursor))
        self.lines = self.size = 0
        return line


def encode(export: Export, place: Place) -> str:
    """All that is needed to go on from here, but for the filters, which a request repeats."""
    bounds = export.bounds
    of_export = _EXPORT.pack(
        FORMAT_VERSION,
        export.id.bytes,
        export.tenant_id,
        fingerprint(export.filters),
        (bounds.before - _EPOCH) // _MICROSECOND,
        bounds.until.bytes,
        bounds.audit_after.seq,
        bounds.audit_after.hash,
        bounds.audit_until.seq,
        bounds.audit_until.hash,
        bounds.is_vouched,
    )
    counts = place.seq, place.responses, place.audit_records, place.size
    of_place = _PLACE.pack(place.response.bytes, *counts, place.chain)
    return base64.urlsafe_b64encode(of_export + of_place).decode()


class NoCursor(ValueError):
    """A text that no export of this tenant has ever given out, or one of an export with other filters."""


def decode(cursor: str, tenant_id: int, filters: Filters) -> tuple[Export, Place]:
    """The export that a cursor belongs to, and the place where it stands.

    Raises:
        NoCursor: it cannot be one of this tenant's, or it belongs to other filters.
    """
    try:
        packed = base64.b64decode(cursor, altchars=b"-_", validate=True)
        version, id_, tenant, of_filters, before, until, *trail = _EXPORT.unpack(packed[: _EXPORT.size])
        place = _place(*_PLACE.unpack(packed[_EXPORT.size :]))
        moment = _EPOCH + before * _MICROSECOND
    except (ValueError, struct.error, OverflowError):
        raise NoCursor("it is not a cursor of an export") from None
    numbers = (trail[0], trail[2], place.seq, place.responses, place.audit_records, place.size)
    if (version, tenant) != (FORMAT_VERSION, tenant_id) or min(numbers) < 0 or max(numbers) >> 62:
        raise NoCursor("it is not a cursor of an export")
    if of_filters != fingerprint(filters):
        raise NoCursor("it belongs to an export with other filters")
    bounds = Bounds(moment, UUID(bytes=until), Head(*trail[:2]), Head(*trail[2:4]), trail[4])
    export = Export(UUID(bytes=id_), tenant_id, filters, bounds)
    # Its line is hashed with what follows, so there is one spelling.
    if encode(export, place) != cursor:
        raise NoCursor("it is not a cursor of an export")
    return export, place


def _place(response: bytes, *counts: Any) -> Place:
    return Place(UUID(bytes=response), *counts)


def fingerprint(filters: Filters) -> bytes:
    """16 bytes that tell filters from others."""
    return hashlib.sha256(orjson.dumps(given(filters), option=orjson.OPT_SORT_KEYS)).digest()[:16]


def given(filters: Filters) -> dict[str, Any]:
    """The filters by the names that a query has for them; what is not given is left out."""
    said: Mapping[str, Any] = {
        "model": filters.model,
        "status": filters.status.wire if filters.status is not None else None,
        "created_after": filters.created_after and instant(filters.created_after),
        "created_before": filters.created_before and instant(filters.created_before),
        "conversation": filters.conversation and ids.conversation_id(filters.conversation),
        "previous_response_id": filters.previous and ids.response_id(filters.previous),
        # Whether a root is a response or a conversation does not show in its key.
        "root": filters.root and filters.root.hex,
        "user": filters.user,
        "safety_identifier": filters.safety_identifier,
        "metadata": dict(sorted(filters.metadata.items())) or None,
        "background": filters.is_background,
        "error_code": filters.error_code,
        "tool": filters.tool,
        "has_attempts_over": filters.attempts_over,
        "q": filters.words,
    }
    return {name: value for name, value in said.items() if value is not None}


def cursor_line(cursor: str) -> bytes:
    """A line from which an export can go on. It says nothing else, so that it follows from its cursor."""
    return _CURSOR_OPEN + cursor.encode() + _CURSOR_SHUT


def cursor_in(line: bytes) -> str | None:
    """The cursor in a line, or None: it is another line, or it is not whole."""
    if not (line.startswith(_CURSOR_OPEN) and line.endswith(_CURSOR_SHUT)):
        return None
    return line[len(_CURSOR_OPEN) : -len(_CURSOR_SHUT)].decode(errors="replace")


def instant(at: datetime) -> str:
    """ISO 8601 to the microsecond, UTC."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
