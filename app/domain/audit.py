"""The audit trail: what is recorded, and how each record vouches for the one before it.

A trail belongs to one tenant. Its records are numbered without gaps, and each carries the hash of the one
before, so that none can be changed, removed or moved without breaking what follows (docs/decisions/0023).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

import orjson

from app import ids

SERVER = 0
"""The trail of the server itself: what concerns every tenant, such as its settings."""

BEGINNING = bytes(32)
"""What the first record of a trail carries in place of a hash before it."""


class Action(IntEnum):
    """What was done. Stored as a number, so values stay what they are; `word` is what readers see."""

    RESPONSE_CREATED = 1
    RESPONSE_FINISHED = 2
    RESPONSE_CANCELLED = 3
    RESPONSE_DELETED = 4
    RESPONSE_READ = 5
    RESPONSE_ADOPTED = 6
    """It was stored by a release that kept no trail."""
    RESPONSES_LISTED = 7
    """With their items, or by their words."""
    RESPONSES_EXPORTED = 8
    RESPONSE_COMPACTED = 9
    """A context was made short for a client to keep; nothing of it is stored."""
    CONVERSATION_CREATED = 20
    CONVERSATION_UPDATED = 21
    CONVERSATION_DELETED = 22
    CONVERSATION_READ = 23
    CONVERSATION_EXTENDED = 24
    """Items were added by a client, without a response."""
    CONVERSATION_REDUCED = 25
    """An item was taken out."""
    KEY_CREATED = 40
    KEY_REVOKED = 41
    TENANT_CHANGED = 42
    SETTINGS_CHANGED = 43
    WEBHOOK_CREATED = 44
    WEBHOOK_UPDATED = 45
    WEBHOOK_ROTATED = 46
    """It has a new signing secret."""
    WEBHOOK_DELETED = 47
    WEBHOOK_REPLAYED = 48
    """An event was queued for it once more."""
    WEBHOOK_TESTED = 49
    """It was sent a sample."""
    AUDIT_READ = 60
    AUDIT_SIGNED = 61
    """From here on a key vouches for the trail that did not before, or that had been forgotten."""
    PROMPT_CREATED = 70
    PROMPT_EXTENDED = 71
    """It has a new version."""
    PROMPT_UPDATED = 72
    PROMPT_DELETED = 73
    PROMPT_READ = 74

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", ".", 1)


WORDS: Mapping[str, Action] = {action.word: action for action in Action}
_KNOWN = {int(action): word for word, action in WORDS.items()}


def word_of(action: int) -> str:
    """What readers see of an action; a later release may have noted one that this one does not know."""
    return _KNOWN.get(action, f"unknown.{action}")


OF_RESPONSES = frozenset(
    {
        Action.RESPONSE_CREATED,
        Action.RESPONSE_FINISHED,
        Action.RESPONSE_CANCELLED,
        Action.RESPONSE_DELETED,
        Action.RESPONSE_ADOPTED,
    }
)
"""After these a response is looked at again, for what is found and counted of it."""


@dataclass(frozen=True, slots=True)
class Note:
    """What was done, before it has its place in the trail."""

    at: datetime
    action: int
    """An `Action`, if this release knows it."""
    key_id: UUID | None
    """Whose doing it was; None where there are no keys, and for the server's own."""
    subject: UUID | None
    """The response, conversation or key that it was done to."""
    digest: bytes | None
    """SHA-256 of the response's body and items as they were stored with this."""
    data: str
    """JSON of what else is to be known."""


@dataclass(frozen=True, slots=True)
class Record:
    """A note in its place."""

    tenant_id: int
    seq: int
    note: Note
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Where a trail ends."""

    seq: int = 0
    hash: bytes = BEGINNING


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a trail was at some moment, and who vouched for it."""

    seq: int
    at: datetime
    hash: bytes
    public_key: bytes | None = None
    """Ed25519; None where the server had no key to sign with."""
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a trail, and from which record on."""

    seq: int
    reason: str


def content_digest(body: bytes, items: bytes) -> bytes:
    """The hash by which a record vouches for what was stored."""
    return hashlib.sha256(body + items).digest()


def hash_of(tenant_id: int, seq: int, note: Note, previous_hash: bytes) -> bytes:
    """SHA-256 of a JSON array of everything that a record says, in this order; bytes in hexadecimal."""
    said = [
        tenant_id,
        seq,
        micros(note.at),
        int(note.action),
        note.key_id and note.key_id.hex,
        note.subject and note.subject.hex,
        note.digest and note.digest.hex(),
        note.data,
        previous_hash.hex(),
    ]
    return hashlib.sha256(orjson.dumps(said)).digest()


def chain(tenant_id: int, head: Head, notes: Iterable[Note]) -> Iterator[Record]:
    """Give notes their places behind the head, in the order given."""
    seq, previous = head.seq, head.hash
    for note in notes:
        seq += 1
        own = hash_of(tenant_id, seq, note, previous)
        yield Record(tenant_id, seq, note, previous, own)
        previous = own


def check(record: Record, before: Head) -> Fault | None:
    """Whether a record follows from the one before it."""
    if record.seq != before.seq + 1:
        return Fault(before.seq + 1, f"is missing: the next one is {record.seq}")
    if record.previous_hash != before.hash:
        return Fault(record.seq, "does not carry the hash of the one before")
    try:
        expected = hash_of(record.tenant_id, record.seq, record.note, record.previous_hash)
    except (TypeError, ValueError, OverflowError) as error:
        return Fault(record.seq, f"was changed, and cannot be read: {error}")
    if record.hash != expected:
        return Fault(record.seq, "was changed: its hash does not fit")
    return None


def shown(record: Record) -> dict[str, Any]:
    """A record as readers see it: all that its hash covers, and the hash."""
    note = record.note
    return {
        "object": "audit.record",
        "seq": record.seq,
        "at": note.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "action": word_of(note.action),
        "key_id": note.key_id and ids.key_id(note.key_id),
        "subject": note.subject and _named(note.action, note.subject),
        "digest": note.digest and note.digest.hex(),
        "data": note.data,
        "previous_hash": record.previous_hash.hex(),
        "hash": record.hash.hex(),
    }


def shown_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as readers see it, and as they may keep it elsewhere."""
    key, signature = checkpoint.public_key, checkpoint.signature
    return {
        "object": "audit.checkpoint",
        "seq": checkpoint.seq,
        "at": checkpoint.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "hash": checkpoint.hash.hex(),
        "public_key": key.hex() if key else None,
        "signature": signature.hex() if signature else None,
    }


def parse_checkpoint(kept: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint out of what `shown_checkpoint` has made.

    Raises:
        ValueError: it is none.
    """
    try:
        key, signature = (kept.get(name) for name in ("public_key", "signature"))
        return Checkpoint(
            seq=int(kept["seq"]),
            at=datetime.fromisoformat(kept["at"]),
            hash=bytes.fromhex(kept["hash"]),
            public_key=None if key is None else bytes.fromhex(key),
            signature=None if signature is None else bytes.fromhex(signature),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is no checkpoint: {error}") from error


def parse_subject(text: str) -> UUID | None:
    """The key of a response, a conversation, an API key, a prompt or a webhook's endpoint, as records show
    it or in bare hexadecimal.
    """
    parsers = (
        ids.parse_response_id,
        ids.parse_conversation_id,
        ids.parse_key_id,
        ids.parse_webhook_endpoint_id,
        ids.parse_prompt_id,
    )
    found = (parse(each) for each in (text, ids.KEY + text) for parse in parsers)
    return next((key for key in found if key), None)


def _named(action: int, subject: UUID) -> str:
    """The id by which the API knows what something was done to."""
    kinds = {
        "conversation": ids.conversation_id,
        "key": ids.key_id,
        "webhook": ids.webhook_endpoint_id,
        "prompt": ids.prompt_id,
    }
    return kinds.get(word_of(action).partition(".")[0], ids.response_id)(subject)


def micros(at: datetime) -> int:
    """Whole microseconds since 1970: what Postgres keeps, free of floats and of time zones."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
