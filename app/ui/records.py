"""Records of the audit trail in words, with the way to what they are about. Pure, and total."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app import ids
from app.domain.audit import WORDS, Checkpoint, Record, shown
from app.domain.signing import is_signed
from app.store.audit import State
from app.ui import addresses
from app.ui.pieces import as_text, clipped
from app.ui.words import spoken

_SAID: Mapping[str, str] = {
    "response.read": "Response read",
    "response.adopted": "Response found, stored by an earlier release",
    "responses.listed": "Responses listed",
    "responses.exported": "Responses exported",
    "conversation.updated": "Conversation changed",
    "conversation.extended": "Items added to a conversation",
    "conversation.reduced": "Item taken out of a conversation",
    "prompt.extended": "Version added to a prompt",
    "tenant.changed": "Tenant changed",
    "settings.changed": "Settings changed",
    "audit.read": "Audit trail read",
    "audit.signed": "Audit trail signed by another key",
}
"""Where the words of an action say too little by themselves."""

_MOST_CHARS = 200
"""Of one value; all of it is with the hash."""

_MOST_PAIRS = 12

_LATEST = 253_402_300_799.0
"""The last second that has a name."""


@dataclass(frozen=True, slots=True)
class Line:
    """A record as a row."""

    seq: int
    at: float
    words: str
    action: str
    key: str
    """Whose doing it was; empty for the server's own."""
    subject: str
    to_subject: str
    """Where the subject can be read; empty where it cannot."""
    data: Sequence[tuple[str, str]]
    written: Mapping[str, str]
    """What the hash is of, and the hash, as they stand."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the trail goes, and who last vouched for it."""

    records: int
    checkpoint: Checkpoint | None
    at: float
    signed: str
    """What is known of the signature."""


def line(record: Record) -> Line:
    """A record in words."""
    told = shown(record)
    subject = told["subject"] or ""
    names = ("hash", "previous_hash", "digest", "key_id", "subject", "data")
    return Line(
        seq=record.seq,
        at=min(record.note.at.timestamp(), _LATEST),
        words=in_words(told["action"]),
        action=told["action"],
        key=told["key_id"] or "",
        subject=subject,
        to_subject=_address(subject),
        data=_pairs(told["data"]),
        written={spoken(name): told[name] for name in names if told[name]},
    )


def standing(tenant_id: int, state: State, last: Checkpoint | None, trusted: frozenset[bytes]) -> Standing:
    """What the head of a trail and its last checkpoint say."""
    at = min(last.at.timestamp(), _LATEST) if last else 0.0
    return Standing(state.head.seq, last, at, _signed(tenant_id, last, trusted) if last else "")


def in_words(action: str) -> str:
    """What was done: `response.created` is "Response created"."""
    return _SAID.get(action) or spoken(action.replace(".", " ")).capitalize()


def choices() -> list[tuple[str, str]]:
    """Every action there is, and its words."""
    return [(word, in_words(word)) for word in WORDS]


def short(name: str) -> str:
    """The ends of an id or a hash. Ids of one time begin alike."""
    return name if len(name) <= 20 else f"{name[:10]}…{name[-6:]}"


def _signed(tenant_id: int, checkpoint: Checkpoint, trusted: frozenset[bytes]) -> str:
    if checkpoint.signature is None:
        return "not signed"
    if not is_signed(tenant_id, checkpoint):
        return "with a signature that does not fit"
    return "signed by this server" if checkpoint.public_key in trusted else "signed by a key unknown here"


def _address(subject: str) -> str:
    if subject.startswith(ids.RESPONSE):
        return addresses.response(subject)
    return addresses.conversation(subject) if subject.startswith(ids.CONVERSATION) else ""


def _pairs(text: str) -> list[tuple[str, str]]:
    """What else is to be known, one thing after the other."""
    try:
        data: Any = orjson.loads(text)
        values = data.items() if isinstance(data, dict) else [("", data)]
        pairs = [(spoken(name), clipped(_value(value), _MOST_CHARS)) for name, value in values]
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        # It is no JSON, or is nested more deeply than can be written: then it was changed.
        pairs = [("", clipped(text, _MOST_CHARS))]
    return [pair for pair in pairs if pair[1]][:_MOST_PAIRS]


def _value(value: Any) -> str:
    """A list of plain values is read as such."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return ", ".join(map(str, value))
    return as_text(value)
