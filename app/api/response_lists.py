"""Stored responses as many: found by filters, counted, and as a family. All of it extensions of ours."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from app import ids
from app.api import dialects, openapi, pages
from app.api.deps import CallerDep, ResourcesDep, check_include
from app.api.identifiers import response_cursor, response_key, response_not_found
from app.api.json_bodies import as_json
from app.api.response_filters import KNOWN_NAMES, FiltersDep, StatusWord, Text, Time, parse_time
from app.api.scopes import READS
from app.domain.audit import Action
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.shown import shown
from app.domain.tenancy import Caller
from app.domain.turn import with_output, without_output
from app.errors import InvalidRequest
from app.resources import Resources
from app.store import relatives, search, stats
from app.store.relatives import Relative
from app.store.responses import StoredResponse

router = APIRouter(prefix="/v1/responses", tags=["responses"])

PARTS = ("input", "output")
"""What `include` may ask for beside gated fields: the new input items, and the output."""

DEFAULT_DAYS = 30

MOST_USER_DAYS = 92
"""By user the facts of every response are read: over no more days than that."""


async def _parts(
    include: Annotated[
        list[str] | None, Query(description="`input`, `output`, and gated fields of them.")
    ] = None,
    brackets: Annotated[
        list[str] | None, Query(alias="include[]", description="The same, as OpenAI's clients write it.")
    ] = None,
) -> frozenset[str]:
    """What a row carries: by `include=input,output`, or several of them."""
    named = [*(include or ()), *(brackets or ())]
    wanted = [part for text in named for part in text.split(",")]
    check_include([part for part in wanted if part not in PARTS], also=PARTS)
    return frozenset(wanted)


PartsDep = Annotated[frozenset[str], Depends(_parts)]


@router.get("", dependencies=[*READS, *KNOWN_NAMES], **openapi.LIST)
async def list_responses(
    request: Request,
    caller: CallerDep,
    it: ResourcesDep,
    filters: FiltersDep,
    include: PartsDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List stored responses for which all filters hold, newest first. An extension of ours.

    Without its items, unless `include` asks for them. The order is that of creation; the cursor is exact
    even for responses of one microsecond, and stays where it is while others arrive.
    """
    dialect = dialects.asked(request)
    if filters == Filters() and include.isdisjoint(PARTS):
        page = await recent_page(caller, it, limit=limit, order=order, after=after)
        return dialects.answer(page, dialect, it)
    cursor, is_desc = response_cursor(after), order == "desc"
    if filters.is_any:
        await it.ledger.settle(caller)
    async with it.db.begin(caller) as tx:
        if include.isdisjoint(PARTS):
            light = await search.find(tx, filters, limit=limit, newest_first=is_desc, after=cursor)
            rows = [(each.id, without_output(each.body)) for each in light.found]
            has_more = light.has_more
        else:
            whole = await search.find_whole(tx, filters, limit=limit, newest_first=is_desc, after=cursor)
            rows = [(each.id, whole_object(each, include)) for each in whole.found]
            has_more = whole.has_more
    if filters.words is not None or not include.isdisjoint(PARTS):
        it.readings.note(caller, Action.RESPONSES_LISTED, None, {"count": len(rows), "q": filters.words})
    names = [ids.response_id(key) for key, _ in rows]
    page = pages.envelope([row for _, row in rows], names, has_more=has_more)
    return dialects.answer(page, dialect, it)


async def recent_page(
    caller: Caller,
    it: Resources,
    *,
    limit: int = 20,
    order: pages.Direction = "desc",
    after: str | None = None,
) -> Response:
    """A page of everything, by time alone."""
    cursor = response_cursor(after)
    async with it.db.read(caller) as tx:
        page = await search.recent(tx, limit=limit, newest_first=order == "desc", after=cursor)
    rows, names = page.found, [ids.response_id(each.id) for each in page.found]
    return pages.envelope([without_output(each.body) for each in rows], names, has_more=page.has_more)


@router.get("/stats", dependencies=[*READS, *KNOWN_NAMES], **openapi.STATS)
async def get_stats(
    caller: CallerDep,
    it: ResourcesDep,
    group_by: Literal["model", "status", "day", "user"] = "model",
    created_after: Time = None,
    created_before: Time = None,
    model: Text = None,
    status: StatusWord | None = None,
    user: Text = None,
) -> Response:
    """Count responses, their tokens, cost and time, over whole days (UTC): the last 30 by default.

    By model, status and day the days' own counts are read, whatever the number of responses; what was deleted
    still counts, for it was paid. By user, or of one user, the facts of every response of those days, or of
    that user, are read; with a deleted response its user is forgotten. By user without `user` at most 92 days
    can be asked for.
    """
    asked = _asked(created_after, created_before, model, Status[status.upper()] if status else None, user)
    if group_by == "user" and user is None:
        _check_days(asked)
    await it.ledger.settle(caller)
    async with it.db.begin(caller) as tx:
        groups = await stats.groups(tx, asked, group_by)
    found = {
        "object": "response.stats",
        "group_by": group_by,
        "first_day": asked.first.isoformat(),
        "end_day": asked.end.isoformat(),
        "data": [group_object(group, group_by) for group in groups],
    }
    return as_json(found)


@router.get("/{response_id}/lineage", dependencies=READS, **openapi.LINEAGE)
async def get_lineage(
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    ancestors_above: Annotated[
        int | None, Query(ge=0, description="Only ancestors of a smaller depth: the next page of them.")
    ] = None,
    children_after: Annotated[str | None, Query(description="Only children after this one.")] = None,
    siblings_after: Annotated[str | None, Query(description="Only siblings after this one.")] = None,
) -> Response:
    """Say who a response came from, and who came of it, each by pages. An extension of ours.

    Ancestors come nearest first, children and siblings oldest first. Deleted ancestors are named as such;
    nothing else is known of them. The whole tree is `GET /v1/responses?root=…` with the root named here.
    """
    key = response_key(response_id)
    cursors = _cursor("children_after", children_after), _cursor("siblings_after", siblings_after)
    await it.ledger.settle(caller)
    async with it.db.read(caller) as tx:
        found = await relatives.get(tx, key)
        if found is None:
            raise response_not_found(response_id)
        own, root = found
        below = own.depth if ancestors_above is None else min(ancestors_above, own.depth)
        above = await relatives.ancestors(tx, key, below=below, limit=limit + 1)
        children = await relatives.children(tx, key, after=cursors[0], limit=limit + 1)
        beside = (
            await relatives.children(tx, own.previous, after=cursors[1], limit=limit + 2)
            if own.previous
            else ()
        )
    siblings = [each for each in beside if each.id != key][: limit + 1]
    answer = {
        "object": "response.lineage",
        **relative_object(own),
        "root": ids.conversation_id(root.id) if root.is_conversation else ids.response_id(root.id),
        "ancestors": _page(above, limit),
        "children": _page(children, limit),
        "siblings": _page(siblings, limit),
    }
    return as_json(answer)


def whole_object(stored: StoredResponse, include: frozenset[str]) -> bytes:
    """A response with the parts that are asked for; its new input is a key of its own."""
    body = without_output(stored.body)
    if "output" in include:
        body = with_output(stored.body, shown(stored.output_blob, stored.output_gated, include))
    if "input" in include:
        blob = shown(stored.input_blob, stored.input_gated, include)
        body = body.removesuffix(b"}") + b',"input":[' + blob + b"]}"
    return body


def relative_object(relative: Relative) -> dict[str, Any]:
    """One of a family. Of a deleted one only its place is told."""
    if relative.is_deleted:
        return {"id": ids.response_id(relative.id), "depth": relative.depth, "deleted": True}
    return {
        "id": ids.response_id(relative.id),
        "created_at": ids.created_at(relative.id),
        "model": relative.model,
        "status": relative.status.wire,
        "depth": relative.depth,
        "previous_response_id": ids.response_id(relative.previous) if relative.previous else None,
        "conversation": ids.conversation_id(relative.conversation) if relative.conversation else None,
        "deleted": False,
    }


def group_object(group: stats.Group, by: stats.GroupBy) -> dict[str, Any]:
    """A group as it is answered: dollars for cost, milliseconds for time."""
    value = group.value
    sums = dict(group.sums)
    cost = sums.pop("cost_nanos")
    return {
        by: value.wire
        if isinstance(value, Status)
        else value.isoformat()
        if isinstance(value, date)
        else value,
        "count": group.count,
        **sums,
        "cost": cost / 1_000_000_000,
        "duration_ms": {
            f"p{share * 100:g}": None if found is None else round(found, 1)
            for share, found in group.percentiles_ms.items()
        },
    }


def _asked(
    after: str | None, before: str | None, model: str | None, status: Status | None, user: str | None
) -> stats.Asked:
    """Whole days: that of the first instant, and up to and with that of the last."""
    end = _day_after(datetime.now(UTC).date())
    if before is not None:
        last = parse_time("created_before", before)
        end = last.date() if last.time() == time() else _day_after(last.date())
    first = date.fromordinal(max(1, end.toordinal() - DEFAULT_DAYS))
    if after is not None:
        first = parse_time("created_after", after).date()
    return stats.Asked(first, end, model, status, user)


def _check_days(asked: stats.Asked) -> None:
    if (asked.end - asked.first).days > MOST_USER_DAYS:
        raise InvalidRequest(
            f"Invalid 'created_after': by user at most {MOST_USER_DAYS} days are counted at once, unless "
            "'user' names one.",
            code="invalid_value",
            param="created_after",
        )


def _day_after(day: date) -> date:
    return date.fromordinal(min(day.toordinal() + 1, date.max.toordinal()))


def _page(found: Sequence[Relative], limit: int) -> dict[str, Any]:
    return {"data": [relative_object(each) for each in found[:limit]], "has_more": len(found) > limit}


def _cursor(param: str, text: str | None) -> UUID | None:
    if text is None:
        return None
    key = ids.parse_response_id(text)
    if key is None:
        raise InvalidRequest(
            f"Invalid '{param}': no response has the id '{text}'.", code="invalid_value", param=param
        )
    return key
