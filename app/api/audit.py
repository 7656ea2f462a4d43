"""/v1/audit: the tenant's audit trail, read and verified. For keys that audit; an extension of ours."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api import openapi, pages
from app.api.deps import CallerDep, ResourcesDep
from app.api.json_bodies import as_json
from app.api.scopes import AUDITS
from app.domain.audit import WORDS, Action, parse_subject, shown, shown_checkpoint
from app.errors import InvalidRequest
from app.generation.verification import Verdict, verify_newest
from app.store import audit

router = APIRouter(prefix="/v1/audit", tags=["audit"])

VERIFIED_AT_ONCE = 10_000
"""Records that one request verifies, from the newest back; `holdfast audit verify` reads them all."""

After = Annotated[int | None, Query(ge=0, le=1 << 62, description="Go on after the record with this `seq`.")]


@router.get("/records", dependencies=AUDITS, **openapi.AUDIT_RECORDS)
async def list_records(
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: After = None,
    action: Annotated[str | None, Query(description="Only of this kind, such as `response.created`.")] = None,
    subject: Annotated[
        str | None, Query(description="Only about this response, conversation or key.")
    ] = None,
    key_id: Annotated[str | None, Query(description="Only what this key did.")] = None,
) -> Response:
    """List the records of the trail, newest first; all of them, or those of one action, subject or key."""
    by, value = _filter(action, subject, key_id)
    await it.ledger.settle(caller)
    async with it.db.read(caller) as tx:
        found = await audit.page(
            tx, limit=limit + 1, newest_first=order == "desc", after=after, by=by, value=value
        )
    page = found[:limit]
    it.readings.note(caller, Action.AUDIT_READ, None, {"part": "records", "count": len(page)})
    answer = {
        "object": "list",
        "data": [shown(record) for record in page],
        "first_id": page[0].seq if page else None,
        "last_id": page[-1].seq if page else None,
        "has_more": len(found) > limit,
    }
    return as_json(answer)


@router.get("/checkpoints", dependencies=AUDITS, **openapi.AUDIT_CHECKPOINTS)
async def list_checkpoints(
    caller: CallerDep, it: ResourcesDep, limit: pages.Limit = 20, after: After = None
) -> Response:
    """List signed states of the trail, oldest first: kept elsewhere, they show that nothing was cut off."""
    async with it.db.read(caller) as tx:
        found = await audit.checkpoints(tx, after=after or 0, limit=limit + 1)
    page = found[:limit]
    return as_json(
        {
            "object": "list",
            "data": [shown_checkpoint(each) for each in page],
            "first_id": page[0].seq if page else None,
            "last_id": page[-1].seq if page else None,
            "has_more": len(found) > limit,
        }
    )


@router.get("/verification", dependencies=AUDITS, **openapi.AUDIT_VERIFICATION)
async def get_verification(caller: CallerDep, it: ResourcesDep) -> Response:
    """Read the newest records again, 10,000 at most, and say whether each still follows from the one before.

    The first of them is taken to be right; `holdfast audit verify` begins at the beginning.
    """
    await it.ledger.settle(caller)
    it.readings.note(caller, Action.AUDIT_READ, None, {"part": "verification"})
    trusted = it.ledger.signer.trusted
    start, verdict = await verify_newest(it.db, caller, trusted=trusted, at_most=VERIFIED_AT_ONCE)
    return as_json({"object": "audit.verification", "from_seq": start.seq + 1, **verdict_object(verdict)})


def verdict_object(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is answered."""
    fault = verdict.fault
    return {
        "is_intact": fault is None,
        "fault": {"seq": fault.seq, "reason": f"Record {fault.seq} {fault.reason}."} if fault else None,
        "records": verdict.records,
        "checkpoints": verdict.checkpoints,
        "signed_checkpoints": verdict.signed,
        "vouched_seq": verdict.vouched_seq,
        "last_seq": verdict.head.seq,
        "last_hash": verdict.head.hash.hex(),
    }


def _filter(
    action: str | None, subject: str | None, key_id: str | None
) -> tuple[str | None, int | UUID | None]:
    asked = zip(audit.FILTERS, (action, subject, key_id), strict=True)
    given = [(name, text) for name, text in asked if text is not None]
    if not given:
        return None, None
    if len(given) > 1:
        names = " and ".join(f"'{name}'" for name, _ in given)
        raise InvalidRequest(f"Only one of {names} can be asked for at a time.", param=given[1][0])
    [(name, text)] = given
    value = WORDS.get(text) if name == "action" else parse_subject(text)
    if value is None:
        known = f" Supported values are: {', '.join(WORDS)}." if name == "action" else ""
        # A whole key that was given by mistake is not told again.
        raise InvalidRequest(f"Invalid '{name}': '{text[:35]}'.{known}", code="invalid_value", param=name)
    return name, value
