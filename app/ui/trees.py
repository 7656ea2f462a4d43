"""/ui/responses/{id}/tree: where a response stands, to be walked up, down and sideways."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app import ids
from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import check_prefix, response_key, response_not_found
from app.api.scopes import READS
from app.domain.audit import Action
from app.domain.items import split
from app.errors import InvalidRequest
from app.store import branches, relatives, surroundings
from app.store.db import ReadTx
from app.store.relatives import Relative, Root
from app.store.surroundings import Glance
from app.ui import addresses, turns
from app.ui.pieces import clipped
from app.ui.rendering import page
from app.ui.words import minted_at

router = APIRouter(prefix="/responses/{response_id}/tree")

ABOVE = 20
"""Turns before it that are shown at once."""

BELOW = 30
"""Turns that follow it."""

BESIDE = 5
"""Turns on each side of it that follow the same one."""

MOST_COUNTED = 100
"""Of what follows a turn no more is counted."""

GLANCE_BYTES = 64 * 1024

BEGINNING = UUID(int=0)
"""The cursor before the first of all."""

_DEPTHS = Query(ge=0, le=(1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Node:
    """A response in the tree."""

    id: str
    status: str
    model: str
    at: float
    depth: int
    gist: str
    is_deleted: bool
    followers: int
    """How many turns follow it, up to `MOST_COUNTED`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Which parts of a family are shown."""

    above: int | None
    below: UUID | None
    beside: UUID | None


@dataclass(frozen=True, slots=True)
class _Family:
    """What is read of a family: of each part one more than is shown, if there are more."""

    own: Relative
    root: Root
    first: Relative | None
    """The root, if it is a response."""
    above: Sequence[Relative]
    """The nearest first."""
    below: Sequence[Relative]
    beside: Sequence[Relative]
    """What follows the same turn, itself among them, unless it is further on."""
    before: UUID | None
    """The cursor of the page before `beside`; None if that begins with the first."""

    @property
    def shown(self) -> set[UUID]:
        """Those whose words may be read: what was deleted has none."""
        each = [self.own, self.first, *self.above, *self.below, *self.beside]
        return {relative.id for relative in each if relative and not relative.is_deleted}


@router.get("", dependencies=READS)
async def show_tree(
    request: Request,
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    above: Annotated[int | None, _DEPTHS] = None,
    children_after: Annotated[str | None, Query()] = None,
    siblings_after: Annotated[str | None, Query()] = None,
) -> Response:
    """The response between those before it, those beside it and those after it."""
    key = response_key(response_id)
    place = _Place(
        above, _cursor("children_after", children_after), _cursor("siblings_after", siblings_after)
    )
    await it.ledger.settle(caller)
    async with it.db.read(caller) as tx:
        if (family := await _family(tx, key, place)) is None:
            raise response_not_found(response_id)
        glances = await surroundings.glances(tx, family.shown, most_bytes=GLANCE_BYTES)
        counts = await branches.child_counts(tx, family.shown, most=MOST_COUNTED + 1)
    it.readings.note(caller, Action.RESPONSES_LISTED, key, {"count": len(glances)})
    return page(request, "tree.html", **_shown(family, place, glances, counts))


async def _family(tx: ReadTx, key: UUID, place: _Place) -> _Family | None:
    if (found := await relatives.get(tx, key)) is None:
        return None
    own, root = found
    highest = own.depth if place.above is None else min(place.above, own.depth)
    above = await relatives.ancestors(tx, key, below=highest, limit=ABOVE + 1)
    is_first = root.is_conversation or root.id == key
    top = () if is_first else await relatives.ancestors(tx, key, below=1, limit=1)
    below = await relatives.children(tx, key, after=place.below, limit=BELOW + 1)
    beside, before = await _beside(tx, own, place.beside)
    return _Family(own, root, top[0] if top else None, above, below, beside, before)


async def _beside(tx: ReadTx, own: Relative, after: UUID | None) -> tuple[Sequence[Relative], UUID | None]:
    """What follows the same turn, a few places before it or after the cursor; and the page before."""
    if own.previous is None:
        return [own], None
    since = after or await branches.places_before(tx, own.previous, own.id, places=BESIDE)
    found = await relatives.children(tx, own.previous, after=since, limit=2 * BESIDE + 2)
    if since is None or since == BEGINNING:
        return found, None
    before = await branches.places_before(tx, own.previous, since, places=2 * BESIDE)
    return found, before or BEGINNING


def _shown(
    family: _Family, place: _Place, glances: Mapping[UUID, Glance], counts: Mapping[UUID, int]
) -> dict[str, Any]:
    """What the template is given; addresses lead to other parts of the same tree."""

    def nodes(found: Collection[Relative]) -> list[Node]:
        return [_node(each, glances.get(each.id), counts.get(each.id, 0)) for each in found]

    above, below, beside = family.above[:ABOVE], family.below[:BELOW], family.beside[: 2 * BESIDE + 1]
    first = None if family.first in above else family.first
    highest = above[-1].depth if len(family.above) > ABOVE else 0
    return {
        "own": nodes([family.own])[0],
        "first": nodes([first])[0] if first else None,
        "conversation": ids.conversation_id(family.root.id) if family.root.is_conversation else "",
        "root": addresses.HOME + "?root=" + _name(family.root),
        "above": nodes(above[::-1]),
        "highest": highest,
        "between": max(0, highest - (1 if first else 0)),
        "later": family.own.depth - (above[0].depth + 1 if above else 0) if place.above is not None else 0,
        "below": nodes(below),
        "is_below_first": place.below is None,
        "below_after": ids.response_id(below[-1].id) if len(family.below) > BELOW else "",
        "beside": nodes(beside),
        "beside_before": ids.response_id(family.before) if family.before else "",
        "beside_after": ids.response_id(beside[-1].id) if len(family.beside) > len(beside) else "",
        "is_beside": any(each.id == family.own.id for each in beside),
        "most_counted": MOST_COUNTED,
    }


def _node(relative: Relative, glance: Glance | None, followers: int) -> Node:
    blob = glance.input_blob if glance else b""
    gist = "Large input, not looked into" if blob is None else turns.gist(split(blob))
    return Node(
        id=ids.response_id(relative.id),
        status=relative.status.wire,
        model=clipped(relative.model, 60),
        at=minted_at(relative.id),
        depth=relative.depth,
        gist="" if relative.is_deleted else gist,
        is_deleted=relative.is_deleted,
        followers=followers,
    )


def _name(root: Root) -> str:
    return ids.conversation_id(root.id) if root.is_conversation else ids.response_id(root.id)


def _cursor(param: str, text: str | None) -> UUID | None:
    if text is None:
        return None
    check_prefix(param, text, "resp")
    if (key := ids.parse_response_id(text)) is None:
        raise InvalidRequest(
            f"Invalid '{param}': no response has the id '{text}'.", code="invalid_value", param=param
        )
    return key
