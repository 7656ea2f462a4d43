"""Whether what is stored is still what the trail vouches for, turn by turn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.audit import OF_RESPONSES, Action, Note, Record
from app.domain.tenancy import Caller
from app.store import contents
from app.store.contents import Content
from app.store.db import Database

AT_ONCE = 50
"""Turns that are read together: one may be as large as a body."""

_ADDING = frozenset({Action.CONVERSATION_CREATED, Action.CONVERSATION_EXTENDED})
_STORING = _ADDING | {Action.RESPONSE_CREATED, Action.RESPONSE_ADOPTED}


@dataclass(frozen=True, slots=True)
class Change:
    """A turn that is not what the trail says."""

    seq: int
    """The record that tells of it."""
    name: str
    reason: str


async def compare(db: Database, caller: Caller, records: Sequence[Record]) -> list[Change]:
    """Hold what some records tell of against its rows. Of a response that they tell of several times, its
    last state counts, whichever record has that.
    """
    told = list(_told(records))
    changes = list[Change]()
    for place in range(0, len(told), AT_ONCE):
        some = told[place : place + AT_ONCE]
        async with db.read(caller) as tx:
            found = await contents.find(tx, {each.turn_id for each in some})
        changes += [change for each in some if (change := _changed(each, found.get(each.turn_id)))]
    return changes


@dataclass(frozen=True, slots=True)
class _Told:
    """A turn that the trail tells of."""

    turn_id: UUID
    seq: int
    note: Note
    has_to_be_there: bool
    """Whether one of the records says that it was stored for good."""


def _told(records: Iterable[Record]) -> Iterable[_Told]:
    """The turns that these records tell of, each once; the later record counts."""
    told = dict[UUID, _Told]()
    for record in records:
        note, data = record.note, orjson.loads(record.note.data)
        turn_id = note.subject if note.action in OF_RESPONSES else _added(note, data)
        if turn_id:
            is_stored = note.action in _STORING and data.get("store") is not False
            is_known = turn_id in told and told[turn_id].has_to_be_there
            told[turn_id] = _Told(turn_id, record.seq, note, is_stored or is_known)
    return told.values()


def _added(note: Note, data: Mapping[str, Any]) -> UUID | None:
    """The turn by which a client has put items into a conversation."""
    return UUID(data["turn"]) if note.action in _ADDING and note.digest else None


def _changed(told: _Told, content: Content | None) -> Change | None:
    if content is None:
        return _change(told, "is not there any more") if told.has_to_be_there else None
    expected = told.note.digest if told.note.action in _ADDING else content.recorded
    if content.is_pending or expected is None or content.digest == expected:
        return None
    is_readable = content.digest is not None
    return _change(told, "is not what was stored" if is_readable else "is damaged, and cannot be read")


def _change(told: _Told, reason: str) -> Change:
    if told.note.action in _ADDING and told.note.subject:
        return Change(told.seq, f"what was put into {ids.conversation_id(told.note.subject)}", reason)
    return Change(told.seq, ids.response_id(told.turn_id), reason)
