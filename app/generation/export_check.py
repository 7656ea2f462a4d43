"""Whether an export is what it was: its bytes, its counts, the trail in it, and the responses by the trail.

Without a database and without the server: whoever has the file and the public key can tell.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.domain.audit import WORDS, Checkpoint, Head, Note, Record, check, content_digest, parse_checkpoint
from app.domain.export import FORMAT_VERSION, Chain, Place, cursor_in
from app.domain.signing import is_signed
from app.generation.ledger import MOST_UNSIGNED


class Wrong(ValueError):
    """The export is not whole, or not what it was; the message says where."""


@dataclass(slots=True)
class Verdict:
    """What an export was found to be."""

    responses: int = 0
    proven: int = 0
    """Responses whose content is what the trail says was stored."""
    audit_records: int = 0
    checkpoints: int = 0
    signed: int = 0
    """How many of the checkpoints carry the signature of a trusted key."""
    head: Head = field(default_factory=Head)
    """The end of the trail's segment."""
    vouched_seq: int = 0
    """Up to here such a signature vouches for the trail."""


def verify(lines: Iterable[bytes], *, trusted: Collection[bytes] = ()) -> Verdict:
    """Read an export from its header to its manifest.

    Held in memory is a hash of each response, about 200 bytes.

    Args:
        trusted: Public keys whose signatures count. Without any, none has to be there.

    Raises:
        Wrong: something is not as it was, or is missing.
    """
    checking = _Checking(trusted)
    for number, line in enumerate(lines, 1):
        try:
            checking.take(line)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Wrong(f"line {number}: {error}") from error
    return checking.verdict_at_end()


class _Checking:
    """How far an export has been read, and what has still to come."""

    def __init__(self, trusted: Collection[bytes]) -> None:
        self._trusted = trusted
        self._chain = Chain(Place())
        self._verdict = Verdict()
        self._tenant_id = 0
        self._until: Head | None = None
        self._is_over = False
        self._last: Record | None = None
        self._digests = dict[UUID, bytes]()
        self._proven = dict[UUID, bool]()

    def take(self, line: bytes) -> None:
        if self._is_over:
            raise Wrong("nothing comes behind the manifest")
        if not line.endswith(b"\n"):
            raise Wrong("it breaks off in the middle of a line")
        said: dict[str, Any] = orjson.loads(line)
        kind = said["object"]
        if self._until is None:
            self._begin(kind, said)
        elif kind == "export.manifest":
            self._end(said)
            return
        elif kind == "export.cursor" and (cursor := cursor_in(line)):
            self._chain.close()
            self._chain.open(cursor)
            return
        else:
            self._read(kind, said)
        self._chain.add(line)

    def verdict_at_end(self) -> Verdict:
        if not self._is_over:
            raise Wrong("it has no manifest: it is not whole")
        return self._verdict

    def _begin(self, kind: str, said: Mapping[str, Any]) -> None:
        if kind != "export" or said["format_version"] != FORMAT_VERSION:
            raise Wrong("it does not begin with the header of an export that this release can read")
        self._tenant_id, self._until = int(said["tenant"]), _head(said["audit_until"])
        self._verdict.head = _head(said["audit_after"])
        self._verdict.vouched_seq = self._verdict.head.seq

    def _read(self, kind: str, said: dict[str, Any]) -> None:
        match kind:
            case "export.response":
                self._verdict.responses += 1
                self._digests[_uuid(said["response"]["id"])] = _digest(said)
            case "audit.record":
                self._follow(_record(self._tenant_id, said))
            case "audit.checkpoint":
                self._compare(parse_checkpoint(said))
            case _:
                raise Wrong(f"no export has a line of '{kind}'")

    def _follow(self, record: Record) -> None:
        verdict, note = self._verdict, record.note
        if fault := check(record, verdict.head):
            raise Wrong(f"record {fault.seq} {fault.reason}")
        verdict.head, verdict.audit_records = Head(record.seq, record.hash), verdict.audit_records + 1
        if note.subject and note.subject in self._digests and note.digest:
            self._proven[note.subject] = note.digest == self._digests[note.subject]
        if self._trusted and record.seq - verdict.vouched_seq > MOST_UNSIGNED:
            raise Wrong(f"no trusted key has signed any of the {MOST_UNSIGNED} records up to {record.seq}")

    def _compare(self, checkpoint: Checkpoint) -> None:
        verdict = self._verdict
        if (checkpoint.seq, checkpoint.hash) != (verdict.head.seq, verdict.head.hash):
            raise Wrong(
                f"record {verdict.head.seq} has another hash, or another place, than its checkpoint says"
            )
        is_claimed = checkpoint.public_key is not None or checkpoint.signature is not None
        if is_claimed and not is_signed(self._tenant_id, checkpoint):
            raise Wrong(f"the checkpoint of record {checkpoint.seq} was changed: its signature does not fit")
        verdict.checkpoints += 1
        if checkpoint.public_key in self._trusted:
            verdict.signed, verdict.vouched_seq = verdict.signed + 1, checkpoint.seq

    def _end(self, said: Mapping[str, Any]) -> None:
        self._chain.close()
        verdict, place = self._verdict, self._chain.place
        found = {
            "responses": verdict.responses,
            "audit_records": verdict.audit_records,
            "bytes": place.size,
            "chained_sha256": place.chain.hex(),
        }
        for name, value in found.items():
            if said[name] != value:
                raise Wrong(f"the manifest says {said[name]} for '{name}', and it is {value}")
        for who, end in (("header", self._until), ("manifest", _head(said["head"]))):
            if end != verdict.head:
                raise Wrong(f"the trail ends with record {verdict.head.seq}, and not as the {who} says")
        for key, is_proven in self._proven.items():
            if not is_proven:
                raise Wrong(f"resp_{key.hex} is not what the trail says was stored")
        verdict.proven, self._is_over = len(self._proven), True


def _head(said: Mapping[str, Any]) -> Head:
    return Head(int(said["seq"]), bytes.fromhex(said["hash"]))


def _record(tenant_id: int, said: Mapping[str, Any]) -> Record:
    """A record out of what `audit.shown` has made of it."""
    word, key, subject, digest = (said[name] for name in ("action", "key_id", "subject", "digest"))
    note = Note(
        at=datetime.fromisoformat(said["at"]),
        action=WORDS[word] if word in WORDS else int(word.removeprefix("unknown.")),
        key_id=key and _uuid(key),
        subject=subject and _uuid(subject),
        digest=digest and bytes.fromhex(digest),
        data=said["data"],
    )
    previous, own = (bytes.fromhex(said[name]) for name in ("previous_hash", "hash"))
    return Record(tenant_id, said["seq"], note, previous, own)


def _uuid(name: str) -> UUID:
    """The key in an id, whatever it is an id of."""
    return UUID(hex=name.rpartition("_")[2])


def _digest(said: Mapping[str, Any]) -> bytes:
    """What the trail vouches for: the body without its output, and the items. What orjson has written, it
    writes again in the same bytes.
    """
    response = said["response"]
    items = [*said["input"], *response["output"]]
    return content_digest(orjson.dumps({**response, "output": []}), orjson.dumps(items)[1:-1])
