"""Responses for tests of finding: stored as requests would, and a plain list of what is known of them."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.gates import Gated
from app.domain.jobs import Mode, NewJob
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.turn import Place, Turn
from app.generation.ledger import Ledger
from app.store import lifecycle, search
from app.store.db import Database

VOCABULARY = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven")
CONVERSATIONS = tuple(ids.new_uuid() for _ in range(2))
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 400

_MARK = "update responses set mode = $3, attempt = $4 where tenant_id = $1 and id = $2"
_RUN = "update responses set status = 1, lease_until = now() where tenant_id = $1 and id = $2"


@dataclass(frozen=True, slots=True)
class Known:
    """What whoever stored a response knows of it."""

    id: UUID
    model: str = "m"
    status: Status = Status.COMPLETED
    conversation: UUID | None = None
    previous: UUID | None = None
    place: Place | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    is_background: bool = False
    error_code: str | None = None
    tools: tuple[str, ...] = ()
    attempts: int = 0
    words: tuple[str, ...] = ()

    @property
    def root(self) -> UUID:
        assert self.place
        return self.place.forks[0][0] if self.place.forks else self.place.chain_id

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp((self.id.int >> 80) / 1000, UTC)


def holds(known: Known, filters: Filters) -> bool:
    """The filters in plain words."""
    equal = ("model", "status", "conversation", "previous", "root", "user", "safety_identifier", "is_background", "error_code")  # fmt: skip
    return (
        all(getattr(filters, name) in {None, getattr(known, name)} for name in equal)
        and (filters.created_after is None or known.at >= filters.created_after)
        and (filters.created_before is None or known.at < filters.created_before)
        and filters.metadata.items() <= known.metadata.items()
        and (filters.tool is None or filters.tool in known.tools)
        and (filters.attempts_over is None or known.attempts > filters.attempts_over)
        and (filters.words is None or says(known.words, filters.words))
    )


def says(words: Sequence[str], question: str) -> bool:
    """A question as a search engine takes it: `or` between alternatives, of each all words and phrases."""
    text = " ".join(("", *words, ""))
    return any(
        all(
            (f" {term.strip('-').strip(chr(34))} " in text) != term.startswith("-")
            for term in re.findall(r'-?"[^"]+"|-?\w+', part)
        )
        for part in question.split(" or ")
    )


def made_up(rng: random.Random, count: int) -> list[Known]:
    """Responses of every kind, in the order of time."""
    found = list[Known]()
    days = sorted(rng.random() ** 3 * DAYS for _ in range(count))
    for number, day in enumerate(days):
        millis = int((BEGIN + timedelta(days=DAYS - 1 - days[-1 - number])).timestamp() * 1000)
        new_id = UUID(int=millis << 80 | 7 << 76 | 2 << 62 | rng.getrandbits(62))
        found.append(_made_up(rng, new_id, found))
        assert day <= DAYS
    return sorted(found, key=lambda known: known.id)


def _made_up(rng: random.Random, new_id: UUID, before: Sequence[Known]) -> Known:
    status = rng.choice((*[Status.COMPLETED] * 6, *Status))
    parent = rng.choice(before[-30:]) if before and rng.random() < 0.5 else None
    conversation = rng.choice(CONVERSATIONS) if parent is None and rng.random() < 0.2 else None
    place = Place(new_id, 0)
    if parent and parent.place:
        place = parent.place.next().elsewhere(new_id)
    elif conversation:
        place = Place(conversation, 0).elsewhere(new_id)
    is_background = status < Status.COMPLETED or rng.random() < 0.3
    return Known(
        id=new_id,
        model=rng.choice(("m", "m", "n", "o")),
        status=status,
        conversation=conversation,
        previous=parent and parent.id,
        place=place,
        user=rng.choice((None, "u1", "u2")),
        safety_identifier=rng.choice((None, "s1", "s2")),
        metadata={key: rng.choice("xy") for key in "ab" if rng.random() < 0.5},
        is_background=is_background,
        error_code=rng.choice(("server_error", "invalid_prompt")) if status is Status.FAILED else None,
        tools=tuple(name for name in ("t1", "t2") if rng.random() < 0.3),
        attempts=rng.randrange(4) if is_background else 0,
        words=tuple(rng.choices(VOCABULARY, weights=(40, 20, 10, 5, 2, 1, 0.5, 0.2), k=rng.randrange(1, 9))),
    )


def some_filters(rng: random.Random, stored: Sequence[Known]) -> Filters:
    """One to three of them, most of them with values that are there."""
    like = rng.choice(stored)
    values: dict[str, Callable[[], Any]] = {
        "model": lambda: like.model,
        "status": lambda: like.status,
        "created_after": lambda: rng.choice(stored).at,
        "created_before": lambda: rng.choice(stored).at,
        "conversation": lambda: rng.choice(CONVERSATIONS),
        "previous": lambda: rng.choice(stored).id,
        "root": lambda: like.root,
        "user": lambda: like.user,
        "safety_identifier": lambda: like.safety_identifier,
        "metadata": lambda: dict(rng.sample(sorted(like.metadata.items()), rng.randrange(len(like.metadata) + 1))),
        "is_background": lambda: like.is_background,
        "error_code": lambda: like.error_code,
        "tool": lambda: rng.choice(("t1", "t2", "t3")),
        "attempts_over": lambda: rng.randrange(4),
        "words": lambda: a_question(rng),
    }  # fmt: skip
    names = rng.sample(sorted(values), rng.choice((0, 1, 1, 1, 2, 2, 3)))
    return Filters(**{name: values[name]() for name in names})


def a_question(rng: random.Random) -> str:
    """Words as somebody might ask for them."""
    one, other, third = rng.sample(VOCABULARY, 3)
    forms = ("{0}", "{0}", "{0} {1}", '"{0} {1}"', "{0} or {1}", "-{0}", "{0} -{1}", '{0} or "{1} {2}"', "{0} {1} or {2}", '-"{0} {1}"')  # fmt: skip
    return rng.choice(forms).format(one, other, third)


async def store(db: Database, caller: Caller, known: Known) -> Known:
    """Store a response of which this is known; its facts are made when somebody settles."""
    asked, told = known.words[: len(known.words) // 2], known.words[len(known.words) // 2 :]
    output = [
        _message(known.id, 1, told),
        *(_call(known.id, place, name) for place, name in enumerate(known.tools, 2)),
    ]
    turn = Turn(
        id=known.id,
        parent=known.previous,
        place=known.place or Place(known.id, 0),
        status=known.status,
        model=known.model,
        input_blob=orjson.dumps(_message(known.id, 0, asked)),
        input_count=1,
        input_gated=Gated.NONE,
        output_blob=b",".join(map(orjson.dumps, output)),
        output_count=len(output),
        output_gated=Gated.NONE,
        body=orjson.dumps(_body(known)),
        conversation=known.conversation,
    )
    mode = Mode.BACKGROUND if known.is_background else Mode.FOREGROUND
    async with db.begin_system() as system:
        tx = system.of(caller.tenant_id)
        if known.status < Status.COMPLETED:
            turn = replace(turn, status=Status.QUEUED)
            await lifecycle.enqueue(
                tx, [NewJob(turn, mode=mode, priority=0, event_count=0, request=b"{}")], max_queued=10_000
            )
        else:
            await lifecycle.append(tx, turn)
        await system._driver.fetch(_MARK, caller.tenant_id, known.id, int(mode), known.attempts)
        if known.status is Status.IN_PROGRESS:
            await system._driver.fetch(_RUN, caller.tenant_id, known.id)
    return replace(known, place=turn.place)


async def store_all(
    db: Database, caller: Caller, made: Sequence[Known], *, rng: random.Random | None = None
) -> None:
    """Store them, in a random order if there is a generator, and have their facts made."""
    for known in rng.sample(made, len(made)) if rng else made:
        await store(db, caller, known)
    await settled(db, caller)


async def settled(db: Database, caller: Caller) -> None:
    await Ledger(db).settle(caller)


async def found(
    db: Database, caller: Caller, filters: Filters, *, limit: int = 100, newest_first: bool = True
) -> list[UUID]:
    """The ids of all pages, one page after the other."""
    walked, after = list[UUID](), None
    while True:
        async with db.begin(caller) as tx:
            page = await search.find(tx, filters, limit=limit, newest_first=newest_first, after=after)
        walked += [each.id for each in page.found]
        if not page.has_more:
            return walked
        assert 0 < len(page.found) <= limit
        after = walked[-1]


def _body(known: Known) -> dict[str, Any]:
    return {
        "id": ids.response_id(known.id),
        "status": known.status.wire,
        "error": {"code": known.error_code, "message": "x"} if known.error_code else None,
        "model": known.model,
        "output": [],
        "parallel_tool_calls": True,
        "safety_identifier": known.safety_identifier,
        "user": known.user,
        "metadata": known.metadata,
    }


def _message(of: UUID, place: int, words: Sequence[str]) -> dict[str, Any]:
    part = {"type": "output_text" if place else "input_text", "text": " ".join(words)}
    return {"id": ids.item_id("message", of, place), "type": "message", "content": [part]}


def _call(of: UUID, place: int, name: str) -> dict[str, Any]:
    return {
        "id": ids.item_id("function_call", of, place),
        "type": "function_call",
        "name": name,
        "arguments": "{}",
    }
