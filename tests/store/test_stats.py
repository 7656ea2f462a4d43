"""Statistics: what the days' counts and the facts say, against what a plain list of responses does."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from app import ids
from app.domain.facts import Price
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Place
from app.generation.ledger import Ledger
from app.store import responses, stats
from app.store.db import Database
from app.store.stats import SHARES, Asked, Group, GroupBy
from tests.builders import a_caller
from tests.store.turns import a_turn, put

BEGIN = date(2026, 3, 1)
DAYS = 5
END = BEGIN + timedelta(days=DAYS)
ALL = Asked(BEGIN, END)
PRICES = {"priced": Price(input=2, output=10, cached_input=1)}
ENDED = (*[Status.COMPLETED] * 5, Status.INCOMPLETE, Status.FAILED, Status.CANCELLED)

Key = Callable[["Spent"], Any]
KEYS: dict[GroupBy, Key] = {
    "model": lambda spent: spent.model,
    "status": lambda spent: spent.status,
    "day": lambda spent: spent.at.date(),
    "user": lambda spent: spent.user,
}


@dataclass(frozen=True)
class Spent:
    """One response, and what it came to."""

    id: UUID
    at: datetime
    model: str
    status: Status
    user: str | None
    taken: int
    cached: int
    given: int
    thought: int
    cost: float | None
    milliseconds: int

    @property
    def cost_nanos(self) -> int:
        if self.cost is not None:
            return round(self.cost * 1e9)
        if self.model != "priced":
            return 0
        return (self.taken - self.cached) * 2000 + self.cached * 1000 + self.given * 10_000


def made_up(rng: random.Random) -> Spent:
    at = datetime.combine(BEGIN, datetime.min.time(), UTC) + timedelta(seconds=rng.randrange(DAYS * 86_400))
    taken = rng.randrange(10_000)
    return Spent(
        id=UUID(int=int(at.timestamp() * 1000) << 80 | rng.getrandbits(70)),
        at=at,
        model=rng.choice(("m", "n", "priced")),
        status=rng.choice(ENDED),
        user=rng.choice((None, "u1", "u2")),
        taken=taken,
        cached=rng.randrange(taken + 1),
        given=rng.randrange(1000),
        thought=rng.randrange(100),
        cost=rng.choice((None, 0.25, 0.0)),
        milliseconds=int(rng.lognormvariate(8, 2)),
    )


async def spend(db: Database, caller: Caller, spent: Spent) -> None:
    usage = {
        "input_tokens": spent.taken,
        "input_tokens_details": {"cached_tokens": spent.cached},
        "output_tokens": spent.given,
        "output_tokens_details": {"reasoning_tokens": spent.thought},
        **({} if spent.cost is None else {"cost": spent.cost}),
    }
    body = {
        "id": ids.response_id(spent.id),
        "user": spent.user,
        "usage": usage,
        "output": [],
        "parallel_tool_calls": True,
    }
    turn = a_turn(
        id=spent.id, place=Place(spent.id, 0), model=spent.model, status=spent.status, body=orjson.dumps(body)
    )
    await put(db, caller, turn)
    async with db.begin_system() as tx:
        ended = spent.at + timedelta(milliseconds=spent.milliseconds)
        statement = "update responses set finished_at = $3 where tenant_id = $1 and id = $2"
        await tx._driver.fetch(statement, caller.tenant_id, spent.id, ended)


async def groups(db: Database, caller: Caller, asked: Asked, by: GroupBy) -> dict[Any, Group]:
    async with db.begin(caller) as tx:
        found = await stats.groups(tx, asked, by)
    assert len({group.value for group in found}) == len(found)
    return {group.value: group for group in found}


def check(group: Group, expected: Sequence[Spent]) -> None:
    """Sums to the last token; percentiles to a twentieth, by whichever of two neighbours."""
    assert group.count == len(expected)
    assert group.sums == {
        "input_tokens": sum(spent.taken for spent in expected),
        "cached_tokens": sum(spent.cached for spent in expected),
        "output_tokens": sum(spent.given for spent in expected),
        "reasoning_tokens": sum(spent.thought for spent in expected),
        "cost_nanos": sum(spent.cost_nanos for spent in expected),
    }
    durations = sorted(spent.milliseconds for spent in expected)
    for share in SHARES:
        rank = share * (len(durations) - 1)
        near = durations[max(0, math.floor(rank))], durations[min(math.ceil(rank) + 1, len(durations) - 1)]
        found = group.percentiles_ms[share]
        assert found is not None
        assert near[0] * 0.95 - 1 <= found <= near[1] * 1.05 + 1


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_group_of_a_random_month(db: Database, caller: Caller, seed: int) -> None:
    rng = random.Random(seed)
    stored = [made_up(rng) for _ in range(150)]
    for spent in stored:
        await spend(db, caller, spent)
    await Ledger(db, prices=PRICES).settle(caller)
    some = BEGIN + timedelta(days=1), BEGIN + timedelta(days=3)
    asked = (ALL, Asked(*some), Asked(BEGIN, END, model="priced"), Asked(BEGIN, END, status=Status.FAILED), Asked(BEGIN, END, user="u1"), Asked(*some, "m", Status.COMPLETED, "u2"))  # fmt: skip
    for each in asked:
        fits = [
            spent
            for spent in stored
            if each.first <= spent.at.date() < each.end
            and each.model in {None, spent.model}
            and each.status in {None, spent.status}
            and each.user in {None, spent.user}
        ]
        for by, key in KEYS.items():
            expected = defaultdict[Any, list[Spent]](list)
            for spent in fits:
                expected[key(spent)].append(spent)
            found = await groups(db, caller, each, by)
            assert found.keys() == expected.keys()
            for value, group in found.items():
                check(group, expected[value])


async def test_the_largest_come_first_and_days_in_their_order(db: Database, caller: Caller) -> None:
    rng = random.Random(3)
    for _ in range(40):
        await spend(db, caller, made_up(rng))
    await Ledger(db).settle(caller)
    async with db.begin(caller) as tx:
        for by in KEYS:
            found = await stats.groups(tx, ALL, by)
            ordered = [group.value for group in found] if by == "day" else [-group.count for group in found]
            assert ordered == sorted(ordered)  # type: ignore[type-var]


async def test_settling_again_counts_nothing_twice(db: Database, caller: Caller) -> None:
    """The note of a finish comes after that of a create, and a worker may adopt what it finds."""
    spent = made_up(random.Random(4))
    await spend(db, caller, spent)
    await Ledger(db).settle(caller)
    before = await groups(db, caller, ALL, "model")
    async with db.begin_system() as tx:
        again = "insert into audit_outbox (tenant_id, subject, action, data) values ($1, $2, 2, '{}'), ($1, $2, 6, '{}')"
        await tx._driver.fetch(again, caller.tenant_id, spent.id)
    await Ledger(db).settle(caller)
    assert await groups(db, caller, ALL, "model") == before
    assert {group.count for group in before.values()} == {1}


async def test_what_is_deleted_still_counts(db: Database, caller: Caller) -> None:
    """It was paid for. Of users nothing is kept but with the response."""
    rng = random.Random(5)
    stored = [made_up(rng) for _ in range(6)]
    for spent in stored:
        await spend(db, caller, spent)
    await Ledger(db).settle(caller)
    before = {by: await groups(db, caller, ALL, by) for by in ("model", "status", "day")}
    async with db.begin(caller) as tx:
        for spent in stored:
            assert await responses.delete(tx, spent.id)
    await Ledger(db).settle(caller)
    assert {by: await groups(db, caller, ALL, by) for by in ("model", "status", "day")} == before
    assert await groups(db, caller, ALL, "user") == {}


async def test_what_has_not_ended_is_not_counted_yet(db: Database, caller: Caller) -> None:
    async with db.begin_system() as tx:
        queued = """
            insert into responses (tenant_id, id, chain_id, seq, status, codec, model, input_count, output_count,
                input_bytes, input_gated, output_gated, body, items, mode, queued_at)
            select tenant_id, $2, $2, 0, 0, codec, model, 0, 0, 0, 0, 0, body, items, 1, now()
            from responses where tenant_id = $1
        """
        spent = made_up(random.Random(6))
        await spend(db, caller, spent)
        await tx._driver.fetch(queued, caller.tenant_id, UUID(int=spent.id.int + 1))
        note = "insert into audit_outbox (tenant_id, subject, action, data) values ($1, $2, 1, '{}')"
        await tx._driver.fetch(note, caller.tenant_id, UUID(int=spent.id.int + 1))
    await Ledger(db).settle(caller)
    for by in KEYS:
        assert [group.count for group in (await groups(db, caller, ALL, by)).values()] == [1]


async def test_of_no_responses_there_are_no_groups(db: Database, caller: Caller, database_url: str) -> None:
    await spend(db, await a_caller(database_url), made_up(random.Random(7)))
    for by in KEYS:
        for asked in (ALL, Asked(date.min, date.max), Asked(END, BEGIN), Asked(BEGIN, END, "\0", None, "\0")):
            assert await groups(db, caller, asked, by) == {}


async def test_what_nobody_can_have_used_does_not_stop_the_counting(db: Database, caller: Caller) -> None:
    """A sum has to fit its column whatever upstreams have reported, or nothing of its day would be found."""
    rng = random.Random(8)
    for _ in range(20):
        huge = 10**18
        absurd = replace(made_up(rng), model="priced", taken=huge, cached=huge, given=huge, cost=None)
        await spend(db, caller, absurd)
    await Ledger(db, prices={"priced": Price(1_000_000, 1_000_000)}).settle(caller)
    assert sum(group.count for group in (await groups(db, caller, ALL, "model")).values()) == 20
    assert sum(group.count for group in (await groups(db, caller, ALL, "user")).values()) == 20
