"""/ui/audit: the tenant's audit trail, and whether it is still what it was. For keys that audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from app.api.audit import VERIFIED_AT_ONCE
from app.api.deps import CallerDep, ResourcesDep
from app.api.scopes import AUDITS
from app.domain.audit import WORDS, Action, Record, parse_subject
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation.verification import verify_newest
from app.resources import Resources
from app.store import audit
from app.store.db import ReadTx
from app.ui import addresses, records
from app.ui.pieces import clipped
from app.ui.records import Line, Standing
from app.ui.rendering import page

router = APIRouter(prefix="/audit")

ADDRESS = f"{addresses.ROOT}/audit"
PAGE = 50

LOOKED_AT = 1000
"""Records of one subject, key or action that are looked through at once for what else is asked for."""

MOST_NEWER = 99
"""Of records that have come since, no more are counted."""

_FILTERS = {"action": "What was done", "subject": "Done to", "key_id": "Done by"}
_NARROWEST_FIRST = ("subject", "key_id", "action")
_AFTER = Query(ge=0, le=1 << 62)


@dataclass(frozen=True, slots=True)
class Question:
    """Which records an address asks for."""

    given: Mapping[str, str]
    values: Mapping[str, int | UUID]
    """The same as the trail has them, the one that fits the fewest first."""

    @property
    def chips(self) -> list[tuple[str, str, str]]:
        """What is filtered by: what that is called, the value, and the address without it."""
        return [
            (
                _FILTERS[name],
                records.in_words(said) if name == "action" else records.short(said),
                self.at(**{name: ""}),
            )
            for name, said in self.given.items()
        ]

    def at(self, path: str = ADDRESS, **changes: object) -> str:
        """The address with some of it changed; what is empty is left out."""
        pairs = {name: value for name, value in {**self.given, **changes}.items() if value != ""}
        return f"{path}?{urlencode(pairs)}" if pairs else path

    def fits(self, record: Record) -> bool:
        note = record.note
        own = {"action": note.action, "subject": note.subject, "key_id": note.key_id}
        return all(own[name] == value for name, value in self.values.items())


async def _question(
    action: str | None = None,
    subject: Annotated[str | None, Query(max_length=100)] = None,
    key_id: Annotated[str | None, Query(max_length=100)] = None,
) -> Question:
    said = {"action": action, "subject": subject and subject.strip(), "key_id": key_id and key_id.strip()}
    given = {name: text for name, text in said.items() if text}
    values = {name: _value(name, given[name]) for name in _NARROWEST_FIRST if name in given}
    return Question(given, values)


QuestionDep = Annotated[Question, Depends(_question)]


@dataclass(frozen=True, slots=True)
class _Read:
    """A page of the trail."""

    standing: Standing | None = None
    """None where something was changed into what not even the driver can read."""
    lines: Sequence[Line] = ()
    next_after: int | None = None
    seen: int = 0
    """The last record that there was."""


@router.get("", dependencies=AUDITS)
async def show_trail(
    request: Request,
    caller: CallerDep,
    it: ResourcesDep,
    question: QuestionDep,
    after: Annotated[int | None, _AFTER] = None,
) -> Response:
    """Records, newest first, and how far the trail goes."""
    await it.ledger.settle(caller)
    read = await _read(caller, it, question, after)
    it.readings.note(caller, Action.AUDIT_READ, None, {"part": "records", "count": len(read.lines)})
    return page(
        request,
        "audit.html",
        question=question,
        after=after,
        read=read,
        choices=records.choices(),
        short=records.short,
        tenant=quote(request.state.visitor.tenant),
        at_once=VERIFIED_AT_ONCE,
    )


@router.get("/verification", dependencies=AUDITS)
async def show_verification(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Read the newest records again, as the API does, and say whether each follows from the one before."""
    await it.ledger.settle(caller)
    it.readings.note(caller, Action.AUDIT_READ, None, {"part": "verification"})
    trusted = it.ledger.signer.trusted
    start, verdict = await verify_newest(it.db, caller, trusted=trusted, at_most=VERIFIED_AT_ONCE)
    template = "_verdict.html" if "hx-request" in request.headers else "verification.html"
    return page(
        request, template, verdict=verdict, first=start.seq + 1, has_key=bool(it.ledger.signer.trusted)
    )


@router.get("/newer", dependencies=AUDITS)
async def count_newer(
    request: Request,
    caller: CallerDep,
    it: ResourcesDep,
    question: QuestionDep,
    seen: Annotated[int, _AFTER] = 0,
    told: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """How many records have come since the last one `seen`, if they are not as many as was `told`.

    Looking at the trail is in the trail: what this key did by that is not counted.
    """
    await it.ledger.settle(caller)
    async with it.db.read(caller) as tx:
        count = await _newer(tx, question, caller, after=seen)
    if count == told:
        return Response(status_code=204)
    return page(request, "_newer.html", question=question, seen=seen, count=count, most=MOST_NEWER)


async def _read(caller: Caller, it: Resources, question: Question, after: int | None) -> _Read:
    try:
        async with it.db.read(caller) as tx:
            standing = await _standing(tx, it)
            found, next_after = await _find(tx, question, after)
        lines = [records.line(each) for each in found]
    except (TypeError, ValueError, OverflowError):
        return _Read()
    seen = max([standing.records, *(each.seq for each in found[:1])])
    return _Read(standing, lines, next_after, seen)


async def _find(tx: ReadTx, question: Question, after: int | None) -> tuple[list[Record], int | None]:
    """A page of records, and after which one the next begins."""
    is_simple = len(question.values) < 2
    limit = PAGE + 1 if is_simple else LOOKED_AT
    looked_at = await _page(tx, question, after=after, limit=limit, newest_first=True)
    found = [each for each in looked_at if question.fits(each)]
    if len(found) > PAGE:
        return found[:PAGE], found[PAGE - 1].seq
    return found, looked_at[-1].seq if len(looked_at) == LOOKED_AT else None


async def _page(
    tx: ReadTx, question: Question, *, after: int | None, limit: int, newest_first: bool
) -> Sequence[Record]:
    """Records by the narrowest of what is asked for."""
    by, value = next(iter(question.values.items()), (None, None))
    return await audit.page(tx, limit=limit, newest_first=newest_first, after=after, by=by, value=value)


async def _newer(tx: ReadTx, question: Question, caller: Caller, *, after: int) -> int:
    """How many others' records fit, up to one more than `MOST_NEWER`.

    It goes on behind a page that has own looks alone; after `LOOKED_AT` records there is too much to count.
    """
    count, most = 0, MOST_NEWER + 1
    for _ in range(LOOKED_AT // most):
        found = await _page(tx, question, after=after, limit=most, newest_first=False)
        count += sum(question.fits(each) and not _is_own_look(each, caller) for each in found)
        if count >= most or len(found) < most:
            return min(count, most)
        after = found[-1].seq
    return most


async def _standing(tx: ReadTx, it: Resources) -> Standing:
    state = await audit.state(tx)
    place, _ = state.last_checkpoint
    last = await audit.checkpoints(tx, after=place - 1, limit=1) if place else []
    return records.standing(tx.tenant_id, state, last[0] if last else None, it.ledger.signer.trusted)


def _is_own_look(record: Record, caller: Caller) -> bool:
    return record.note.action == Action.AUDIT_READ and record.note.key_id == caller.key_id


def _value(name: str, text: str) -> int | UUID:
    value: Any = WORDS.get(text) if name == "action" else parse_subject(text)
    if value is None:
        # A whole key that was given by mistake is not told again.
        what = _FILTERS[name]
        raise InvalidRequest(
            f"Invalid '{what}': '{clipped(text, 35)}' is not known.", code="invalid_value", param=name
        )
    return value
