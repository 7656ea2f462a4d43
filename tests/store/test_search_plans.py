"""What finding reads, on a table of some thousand rows of two tenants, with the plans that the pool makes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.generation.ledger import Ledger
from app.store import relatives, search, stats
from app.store.db import Database
from tests.bench.search_rows import LOCAL_MODEL, Corpus, Maker, load
from tests.bench.search_words import DAY, MISSING, NIGHT
from tests.store.explaining import Plan, explained

ROWS = 4000
LIMIT = 20
PAGE = 2 * LIMIT + 1
"""A row for each response of a page and the one after it, and again for each body."""


@pytest.fixture(scope="module")
def corpus(quiet_database_url: str) -> Corpus:
    return asyncio.run(planted(quiet_database_url))


async def planted(url: str) -> Corpus:
    connection: Any = await asyncpg.connect(url)
    try:
        return await load(connection, ROWS)
    finally:
        await connection.close()


@pytest.fixture
async def db(quiet_database_url: str) -> AsyncGenerator[Database]:
    """Of the database that has the rows."""
    database = await Database.connect(quiet_database_url, size=1)
    yield database
    await database.close()


async def plans(db: Database, corpus: Corpus, filters: Filters, *, tenant: int = 0, **how: Any) -> list[Plan]:
    caller = Caller(corpus.tenants[tenant])
    found = await explained(db, caller, lambda tx: search.find(tx, filters, limit=LIMIT, **how))
    for plan in found:
        assert "Seq Scan" not in {node["Node Type"] for node in plan.nodes}
    return found


def read(found: list[Plan]) -> int:
    return sum(plan.read for plan in found)


ALONE: dict[str, tuple[Callable[[Corpus], Filters], set[str]]] = {
    "model": (lambda _: Filters(model="o5"), {"ix_response_facts__model"}),
    "status": (lambda _: Filters(status=Status.FAILED), {"ix_response_facts__status"}),
    "created_after": (lambda corpus: Filters(created_after=corpus.end - timedelta(days=9)), {"pk_responses"}),
    "created_before": (lambda corpus: Filters(created_before=corpus.begin + timedelta(days=9)), {"pk_responses"}),
    "conversation": (lambda corpus: Filters(conversation=corpus.conversation), {"ix_response_facts__conversation_id", "ix_response_facts__root_id"}),
    "previous": (lambda corpus: Filters(previous=corpus.growth.tree[0].id), {"ix_response_facts__previous_id"}),
    "root": (lambda corpus: Filters(root=corpus.growth.tree[0].id), {"ix_response_facts__root_id"}),
    "user": (lambda _: Filters(user="user-3"), {"ix_response_facts__user"}),
    "safety_identifier": (lambda _: Filters(safety_identifier="safe-user-3"), {"ix_response_facts__safety_identifier"}),
    "metadata": (lambda _: Filters(metadata={"team": "team-7"}), {"pk_response_terms"}),
    "is_background": (lambda _: Filters(is_background=True), {"ix_response_facts__background"}),
    "error_code": (lambda _: Filters(error_code="rate_limit_exceeded"), {"ix_response_facts__error_code"}),
    "tool": (lambda _: Filters(tool="tool_9"), {"pk_response_terms"}),
    "attempts_over": (lambda _: Filters(attempts_over=1), {"ix_response_facts__attempts"}),
}  # fmt: skip
"""Each filter, and which index has to lead to what it finds."""


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("newest_first", [True, False])
async def test_each_filter_is_served_by_its_index(
    db: Database, corpus: Corpus, name: str, *, newest_first: bool
) -> None:
    filters, indexes = ALONE[name]
    ids, *bodies = await plans(db, corpus, filters(corpus), newest_first=newest_first)
    assert ids.driver in indexes
    assert ids.found > 0
    per_row = 2 if ids.driver == "pk_response_terms" else 1
    assert ids.read <= per_row * (LIMIT + 1), "what is found is looked at, and nothing else"
    assert [plan.driver for plan in bodies] == ["pk_responses"]
    assert read(bodies) <= LIMIT
    assert not {node["Node Type"] for node in ids.nodes} & {"Sort", "Hash Join", "Bitmap Heap Scan"}


@pytest.mark.parametrize("name", ["model", "user", "metadata", "tool", "is_background", "created_after"])
async def test_a_page_deep_in_the_list_reads_no_more(db: Database, corpus: Corpus, name: str) -> None:
    filters, indexes = ALONE[name]
    for newest_first in (True, False):
        ids, *_ = await plans(
            db,
            corpus,
            filters(corpus),
            newest_first=newest_first,
            after=corpus.some[len(corpus.some) * 9 // 10],
        )
        assert ids.driver in indexes
        assert ids.read <= 2 * (LIMIT + 1)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.IN_PROGRESS])
async def test_what_runs_is_found_among_what_has_not_ended(
    db: Database, corpus: Corpus, status: Status
) -> None:
    found = await plans(db, corpus, Filters(status=status))
    assert read(found) < ROWS * 0.01


async def test_nothing_asked_for_reads_no_facts(db: Database, corpus: Corpus) -> None:
    found = await plans(db, corpus, Filters())
    assert [plan.driver for plan in found] == ["pk_responses", "pk_responses"]
    assert read(found) <= PAGE


class TestWords:
    ENOUGH = 2 * search.REACH + PAGE
    """What is looked through whatever is asked: the first facts, and their words."""

    @pytest.mark.parametrize("question", ["ba", DAY, f"{DAY} -ba or ba", f'"{DAY}"'])
    async def test_common_words_are_looked_for_along_the_newest(
        self, db: Database, corpus: Corpus, question: str
    ) -> None:
        found = await plans(db, corpus, Filters(words=question))
        assert {plan.driver for plan in found} == {"pk_response_facts", "pk_response_words", "pk_responses"}
        assert read(found) <= self.ENOUGH

    @pytest.mark.parametrize(
        "question", [MISSING, "needle3000", f"{DAY} {NIGHT}", "needle1000 or needle3000"]
    )
    @pytest.mark.parametrize("newest_first", [True, False])
    async def test_rare_ones_are_looked_for_in_their_index(
        self, db: Database, corpus: Corpus, question: str, *, newest_first: bool
    ) -> None:
        found = await plans(db, corpus, Filters(words=question), newest_first=newest_first)
        assert "ix_response_words__words" in {node.get("Index Name") for plan in found for node in plan.nodes}
        assert read(found) <= self.ENOUGH + 4 * LIMIT

    async def test_other_filters_are_asked_of_what_has_the_words(self, db: Database, corpus: Corpus) -> None:
        for filters in (
            Filters(words="needle10000", model=LOCAL_MODEL),
            Filters(words=MISSING, model="gpt-5.4", is_background=False),
            Filters(words="needle3000", metadata={"tier": "production"}),
        ):
            # Which of the two is followed is the planner's choice, by a sample of so small a table.
            assert read(await plans(db, corpus, filters)) <= 2 * ROWS

    async def test_few_candidates_are_looked_through_and_the_index_is_not(
        self, db: Database, corpus: Corpus
    ) -> None:
        found = await plans(db, corpus, Filters(words=MISSING, user="user-3"))
        assert [plan.driver for plan in found] == ["ix_response_facts__user", "pk_response_words"]

    async def test_no_entry_of_another_tenant_is_walked(self, db: Database, corpus: Corpus) -> None:
        """The small tenant asks for what the large one says in every second response."""
        for question in (DAY, f"{DAY} {NIGHT}", MISSING, "needle100000"):
            found = await plans(db, corpus, Filters(words=question), tenant=1)
            assert read(found) <= 2 * ROWS * 0.06 + PAGE, "twice what it has"


class TestStatistics:
    async def test_days_are_read_and_not_responses(self, db: Database, corpus: Corpus) -> None:
        first = corpus.begin.date()
        for by in ("model", "status", "day"):
            asked = stats.Asked(first, first + timedelta(days=10))
            [plan] = await explained(
                db, Caller(corpus.tenants[0]), lambda tx, asked=asked, by=by: stats.groups(tx, asked, by)
            )
            assert {node.get("Relation Name") for node in plan.scans} <= {"response_stats", None}

    async def test_of_a_user_only_their_own_are_read(self, db: Database, corpus: Corpus) -> None:
        asked = stats.Asked(corpus.begin.date(), corpus.end.date(), user="user-3")
        [plan] = await explained(db, Caller(corpus.tenants[0]), lambda tx: stats.groups(tx, asked, "day"))
        assert plan.driver == "ix_response_facts__user"
        assert plan.read < ROWS * 0.01


class TestFamilies:
    async def test_pages_of_ancestors_and_children_are_all_that_is_read(
        self, db: Database, corpus: Corpus
    ) -> None:
        growth = corpus.growth
        assert growth.deep
        assert growth.wide
        for key in (growth.deep.id, growth.wide.id):
            found = await explained(db, Caller(corpus.tenants[0]), lambda tx, key=key: self.family(tx, key))
            assert read(found) <= 2 + 4 * 5
            assert {plan.driver for plan in found} <= {"pk_responses", "ix_response_facts__previous_id"}

    @staticmethod
    async def family(tx: Any, key: Any) -> None:
        found = await relatives.get(tx, key)
        assert found
        await relatives.ancestors(tx, key, below=found[0].depth, limit=5)
        await relatives.children(tx, key, after=None, limit=5)


FACTS = "select * from response_facts order by tenant_id, id"
TABLES = (
    FACTS,
    "select * from response_terms order by tenant_id, id, kind, name, value",
    "select * from response_words order by tenant_id, id",
    "select * from response_stats order by tenant_id, day, model, status, duration_step",
)


async def test_what_is_planted_is_what_the_ledger_makes(
    quiet_database_url: str, corpus: Corpus, db: Database
) -> None:
    """Else all these figures would be of something else."""
    async with db.begin_system() as tx:
        planted = [await tx._driver.fetch(each) for each in TABLES]
        for each in ("facts", "terms", "words", "stats"):
            await tx._driver.fetch(f"delete from response_{each}")
        note = "insert into audit_outbox (tenant_id, subject, action, data) select tenant_id, id, 1, '{}' from responses"
        await tx._driver.fetch(note)
    while await Ledger(db).settle_all():
        pass
    async with db.begin_system() as tx:
        made = [await tx._driver.fetch(each) for each in TABLES]
    assert [len(rows) for rows in made] == [len(rows) for rows in planted]
    assert made == planted


def test_rows_are_the_same_for_the_same_seed() -> None:
    rows = [[*Maker(200, (1, 2), seed).rows()] for seed in (1, 1, 2)]
    bodies = [
        [(row["tenant_id"], row["status"], row["model"], row["items"][-20:]) for row in each] for each in rows
    ]
    assert bodies[0][0][1:3] == bodies[1][0][1:3]
    assert [row[:3] for row in bodies[0]] == [row[:3] for row in bodies[1]] != [row[:3] for row in bodies[2]]
