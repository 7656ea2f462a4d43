"""Counts of days: what the groups of `stats` say, told apart and together."""

from collections import Counter
from datetime import date, timedelta

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.generation.ledger import Ledger
from app.store import day_stats, stats
from app.store.db import Database
from app.store.stats import Asked
from tests.store.turns import add

STATUSES = (Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.INCOMPLETE)
MODELS = ("a", "b", "a", "c", "nul\0")


async def spend(db: Database, caller: Caller) -> Asked:
    """A few responses of today, and yesterday if it was midnight meanwhile."""
    for i, model in enumerate(MODELS * 2):
        await add(db, caller, model=model.replace("\0", "\ufffd"), status=STATUSES[i % len(STATUSES)])
    await Ledger(db).settle(caller)
    today = date.today()  # noqa: DTZ011 - two days to either side are asked for
    return Asked(today - timedelta(days=2), today + timedelta(days=2))


@pytest.mark.parametrize(
    "narrowed", [{}, {"model": "a"}, {"model": "nul\0"}, {"status": Status.FAILED}, {"model": "nobody"}]
)
async def test_the_whole_is_the_sum_of_its_groups(
    db: Database, caller: Caller, narrowed: dict[str, str | Status]
) -> None:
    everything = await spend(db, caller)
    asked = Asked(everything.first, everything.end, **narrowed)  # type: ignore[arg-type]
    async with db.begin(caller) as tx:
        whole = await day_stats.whole(tx, asked)
        groups = await stats.groups(tx, asked, "day")
    assert whole.count == sum(group.count for group in groups)
    for name in stats.SUMS:
        assert whole.sums[name] == sum(group.sums[name] for group in groups)
    expected = groups[0].percentiles_ms if len(groups) == 1 else whole.percentiles_ms
    assert whole.percentiles_ms == expected
    assert (whole.percentiles_ms[0.5] is None) == (whole.count == 0)


async def test_days_are_told_apart_by_status(db: Database, caller: Caller) -> None:
    asked = await spend(db, caller)
    async with db.begin(caller) as tx:
        found = await day_stats.day_counts(tx, asked, "status", list(Status))
    counts = Counter({Status.COMPLETED: 5 + 1, Status.FAILED: 2, Status.INCOMPLETE: 2})
    assert sum((Counter({each.value: each.count}) for each in found), Counter()) == counts


async def test_models_that_are_not_told_apart_are_together(db: Database, caller: Caller) -> None:
    asked = await spend(db, caller)
    async with db.begin(caller) as tx:
        some = await day_stats.day_counts(tx, asked, "model", ["a", "nul\0", "nobody"])
        none = await day_stats.day_counts(tx, asked, "model", [])
    assert sum((Counter({each.value: each.count}) for each in some), Counter()) == {
        "a": 4,
        "nul\0": 2,
        None: 4,
    }
    assert sum((Counter({each.value: each.count}) for each in none), Counter()) == {None: 10}


async def test_of_users_they_know_nothing(db: Database, caller: Caller) -> None:
    async with db.begin(caller) as tx:
        with pytest.raises(ValueError, match="no users"):
            await day_stats.whole(tx, Asked(date(2026, 1, 1), date(2026, 1, 2), user="ada"))
