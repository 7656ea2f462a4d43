"""/ui/responses: the list, which is filtered by its address and keeps itself up to date."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import response_cursor
from app.api.response_filters import FiltersDep
from app.api.scopes import READS
from app.domain.audit import Action
from app.domain.items import split
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.resources import Resources
from app.store import search, surroundings
from app.store.responses import ListedResponse
from app.store.search import Page
from app.store.surroundings import Glance
from app.ui import addresses, first_steps, turns
from app.ui.queries import asked
from app.ui.rendering import page
from app.ui.summaries import Summary, summarise

router = APIRouter(prefix="/responses")

PAGE = 50
GLANCE_BYTES = 64 * 1024
"""Of items, compressed, and of the input, unfolded: a list looks into no more for the words that it shows."""

After = Annotated[str | None, Query()]


@dataclass(frozen=True, slots=True)
class Row:
    """A response as the list shows it."""

    response: Summary
    gist: str


@router.get("", dependencies=READS)
async def list_responses(
    request: Request,
    caller: CallerDep,
    it: ResourcesDep,
    filters: FiltersDep,
    after: After = None,
    done: str = "",
) -> Response:
    """Responses, newest first. The filters are in the address; `done` is what has just been done."""
    found = await _find(caller, it, filters, after)
    listed = await _listed(request, caller, it, found, after)
    return page(request, "responses.html", done=done, **listed)


@router.get("/rows", dependencies=READS)
async def list_rows(
    request: Request, caller: CallerDep, it: ResourcesDep, filters: FiltersDep, seen: str = ""
) -> Response:
    """The first page of the list once more, if it is another one than was `seen`."""
    found = await _find(caller, it, filters, None)
    if _fingerprint(found) == seen:
        return Response(status_code=204)
    return page(request, "_responses.html", **await _listed(request, caller, it, found, None))


async def _find(caller: Caller, it: Resources, filters: Filters, after: str | None) -> Page[ListedResponse]:
    cursor = response_cursor(after)
    if filters.is_any:
        await it.ledger.settle(caller)
    async with it.db.begin(caller) as tx:
        return await search.find(tx, filters, limit=PAGE, after=cursor)


async def _listed(
    request: Request, caller: Caller, it: Resources, listed: Page[ListedResponse], after: str | None
) -> dict[str, Any]:
    """What the templates of the list are given."""
    keys, question = [each.id for each in listed.found], asked(request, addresses.HOME)
    async with it.db.read(caller) as tx:
        glances = await surroundings.glances(tx, keys, most_bytes=GLANCE_BYTES)
    if keys:
        said = {"count": len(keys), "q": question.value("q") or None}
        it.readings.note(caller, Action.RESPONSES_LISTED, None, said)
    return {
        "rows": [_row(each, glances.get(each.id)) for each in listed.found],
        "asked": question,
        "after": after,
        "has_more": listed.has_more,
        "seen": _fingerprint(listed),
        "first_steps": None if keys else first_steps.of_response(request, caller, it),
    }


def _row(listed: ListedResponse, glance: Glance | None) -> Row:
    blob = glance.input_blob if glance else b""
    return Row(
        summarise(listed.id, orjson.loads(listed.body), glance and glance.finished_at),
        "Large input, not looked into" if blob is None else turns.gist(split(blob)),
    )


def _fingerprint(listed: Page[ListedResponse]) -> str:
    """Changes when a row comes, goes or goes on."""
    return sha256(b"".join(each.body for each in listed.found)).hexdigest()[:16]
