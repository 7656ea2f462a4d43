"""Finding: each filter against a plain list, exact cursors, nothing ignored, nobody else's."""

import random
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from app import ids
from app.domain.response import Status
from app.domain.search import Filters, first_id
from app.domain.tenancy import Caller
from app.domain.turn import Place
from app.store import responses, search
from app.store.db import Database
from tests.builders import a_caller
from tests.store.searching import (
    CONVERSATIONS,
    Known,
    found,
    holds,
    made_up,
    settled,
    some_filters,
    store,
    store_all,
)
from tests.store.turns import a_turn, add, put


def expected(stored: list[Known], filters: Filters, *, newest_first: bool = True) -> list[UUID]:
    return sorted((known.id for known in stored if holds(known, filters)), reverse=newest_first)


@pytest.mark.parametrize(("seed", "reach"), [(1, 200), (2, 200), (3, 8), (4, 1)])
async def test_whatever_is_asked_is_answered_as_from_a_list(
    db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch, seed: int, reach: int
) -> None:
    """With a small reach most words are looked for in their index, over spans of more than a year."""
    monkeypatch.setattr(search, "REACH", reach)
    rng = random.Random(seed)
    stored = made_up(rng, 250)
    await store_all(db, caller, stored, rng=rng)
    sizes = set[int]()
    for _ in range(80):
        filters, newest = some_filters(rng, stored), rng.random() < 0.5
        wanted = expected(stored, filters, newest_first=newest)
        assert (
            await found(db, caller, filters, limit=rng.choice((9, 40, 100)), newest_first=newest) == wanted
        ), filters
        sizes.add(len(wanted))
    assert 0 in sizes
    assert len(sizes) > 20, "filters find more and less"


VALUES: Mapping[str, Any] = {
    "model": "n",
    "status": Status.FAILED,
    "conversation": CONVERSATIONS[0],
    "user": "u1",
    "safety_identifier": "s1",
    "metadata": {"a": "x"},
    "is_background": True,
    "error_code": "server_error",
    "tool": "t1",
    "attempts_over": 1,
    "words": "cedar",
}


def value_of(name: str, stored: list[Known]) -> Any:
    chained = next(known for known in stored if known.previous)
    middle = stored[len(stored) // 2].at
    more = {
        "created_after": middle,
        "created_before": middle,
        "previous": chained.previous,
        "root": chained.root,
    }
    return {**VALUES, **more}[name]


@pytest.mark.parametrize("name", [field.name for field in fields(Filters)])
async def test_no_filter_is_ignored(db: Database, caller: Caller, database_url: str, name: str) -> None:
    """Each finds something, leaves something out, and finds nothing of another tenant that has the same."""
    stored = made_up(random.Random(5), 60)
    stranger = await a_caller(database_url)
    theirs = [replace(known, id=ids.new_uuid(), place=None, previous=known.previous) for known in stored]
    await store_all(db, caller, stored)
    await store_all(db, stranger, theirs)
    filters = Filters(**{name: value_of(name, stored)})
    seen = await found(db, caller, filters)
    assert seen == expected(stored, filters)
    assert 0 < len(seen) < len(stored)
    assert filters.is_any is not name.startswith("created"), "the time alone needs no facts"
    for of_nobody in (await found(db, stranger, filters), await found(db, Caller(1 << 40), filters)):
        assert not {*of_nobody} & {known.id for known in stored}


async def test_tenants_whose_ids_and_words_are_the_same_do_not_meet(
    db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "REACH", 2)
    stranger, rng = await a_caller(database_url), random.Random(6)
    mine = made_up(rng, 40)
    theirs = [replace(known, model="theirs", user="them", words=("amber", "quartz")) for known in mine]
    await store_all(db, caller, mine)
    await store_all(db, stranger, theirs)
    for filters in (
        Filters(words="amber"),
        Filters(words="quartz"),
        Filters(model="theirs"),
        Filters(user="them"),
    ):
        assert await found(db, caller, filters) == expected(mine, filters)
        assert await found(db, stranger, filters) == expected(theirs, filters)


class TestCursors:
    FILTERS = (
        Filters(),
        Filters(model="m"),
        Filters(words="amber"),
        Filters(words="cedar"),
        Filters(user="u1", words="birch"),
    )

    @pytest.mark.parametrize("filters", FILTERS, ids=str)
    @pytest.mark.parametrize("newest_first", [True, False])
    async def test_pages_are_exact_while_rows_come_and_go(
        self,
        db: Database,
        caller: Caller,
        filters: Filters,
        monkeypatch: pytest.MonkeyPatch,
        *,
        newest_first: bool,
    ) -> None:
        """What was there all the while is seen once; what came behind the cursor, or went before it, is not."""
        monkeypatch.setattr(search, "REACH", 10)
        rng = random.Random(7)
        pool = made_up(rng, 120)
        late = rng.sample(pool, 40)
        stored = [known for known in pool if known not in late]
        await store_all(db, caller, stored)
        seen, gone, after = list[UUID](), set[UUID](), None
        while True:
            async with db.begin(caller) as tx:
                page = await search.find(tx, filters, limit=5, newest_first=newest_first, after=after)
            seen += [each.id for each in page.found]
            if not page.has_more:
                break
            after = seen[-1]
            for known in late[-3:]:
                await store(db, caller, known)
            late = late[:-3]
            victim = rng.choice(stored).id
            async with db.begin(caller) as tx:
                await responses.delete(tx, victim)
            gone.add(victim)
            if rng.random() < 0.5:
                await settled(db, caller)
        always = [key for key in expected(stored, filters, newest_first=newest_first) if key not in gone]
        assert seen == sorted(set(seen), reverse=newest_first), "in order, and none twice"
        assert [key for key in seen if key in set(always)] == always
        assert {*seen} <= {known.id for known in pool if holds(known, filters)}

    async def test_any_id_is_a_place(self, db: Database, caller: Caller, database_url: str) -> None:
        stored = made_up(random.Random(8), 20)
        stranger = await a_caller(database_url)
        await store_all(db, caller, stored)
        [theirs] = made_up(random.Random(9), 1)
        await store(db, stranger, theirs)
        for after in (theirs.id, UUID(int=0), UUID(int=(1 << 128) - 1), ids.new_uuid()):
            for filters in (Filters(), Filters(model="m"), Filters(words="amber")):
                async with db.begin(caller) as tx:
                    page = await search.find(tx, filters, limit=100, after=after)
                assert [each.id for each in page.found] == [
                    key for key in expected(stored, filters) if key < after
                ]


class TestDeleted:
    @pytest.mark.parametrize("filters", [Filters(), Filters(model="m"), Filters(words="amber")], ids=str)
    async def test_what_is_deleted_but_not_settled_leaves_no_empty_page(
        self, db: Database, caller: Caller, filters: Filters
    ) -> None:
        """A client goes on from the last row of a page: there has to be one."""
        stored = [await store(db, caller, Known(ids.new_uuid(), words=("amber",))) for _ in range(9)]
        await settled(db, caller)
        async with db.begin(caller) as tx:
            for known in stored[2:]:
                await responses.delete(tx, known.id)
        assert await found(db, caller, filters, limit=2) == [stored[1].id, stored[0].id]
        assert await found(db, caller, filters, limit=2, newest_first=False) == [stored[0].id, stored[1].id]
        await settled(db, caller)
        assert await found(db, caller, filters) == [stored[1].id, stored[0].id]

    async def test_words_of_the_deleted_are_forgotten(self, db: Database, caller: Caller) -> None:
        known = await store(
            db, caller, Known(ids.new_uuid(), words=("secret",), metadata={"a": "b"}, tools=("t",))
        )
        await settled(db, caller)
        async with db.begin(caller) as tx:
            await responses.delete(tx, known.id)
        await settled(db, caller)
        async with db.begin_system() as tx:
            for table in ("response_facts", "response_terms", "response_words"):
                assert not await tx._driver.fetch(f"select 1 from {table} where id = $1", known.id)


async def test_a_status_is_found_as_it_is_now(db: Database, caller: Caller) -> None:
    """A claim writes no note: that a response runs is known by its own row alone."""
    known = await store(db, caller, Known(ids.new_uuid(), status=Status.QUEUED, is_background=True))
    await settled(db, caller)
    assert await found(db, caller, Filters(status=Status.QUEUED)) == [known.id]
    async with db.begin_system() as tx:
        run = "update responses set status = 1, lease_until = now() where id = $1"
        await tx._driver.fetch(run, known.id)
    assert await found(db, caller, Filters(status=Status.QUEUED)) == []
    assert await found(db, caller, Filters(status=Status.IN_PROGRESS)) == [known.id]


async def test_a_page_carries_items_where_they_are_wanted(db: Database, caller: Caller) -> None:
    known = await store(db, caller, Known(ids.new_uuid(), words=("amber", "birch")))
    await settled(db, caller)
    async with db.begin(caller) as tx:
        [light] = (await search.find(tx, Filters(words="birch"), limit=1)).found
        [whole] = (await search.find_whole(tx, Filters(words="birch"), limit=1)).found
    assert light.id == whole.id == known.id
    assert light.body == whole.body
    assert orjson.loads(whole.input_blob)["content"][0]["text"] == "amber"
    assert orjson.loads(whole.output_blob)["content"][0]["text"] == "birch"


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_with_items_ends_where_they_are_too_much(
    db: Database, caller: Caller, *, newest_first: bool
) -> None:
    """By what is stored, and by what an input unfolds to; what is too large by itself is a page."""
    noise = random.Random(3)
    large = [
        await put(db, caller, a_turn(input_blob=b'{"says":"' + text + b'"}'))
        for text in (b"a" * (7 << 20), noise.randbytes(4 << 20).hex().encode(), b"b" * (17 << 20))
    ]
    small = await add(db, caller, "small")
    sizes, walked, after = list[int](), list[UUID](), None
    while True:
        async with db.begin(caller) as tx:
            page = await search.find_whole(tx, Filters(), limit=100, newest_first=newest_first, after=after)
        sizes.append(len(page.found))
        walked += [each.id for each in page.found]
        if not page.has_more:
            break
        after = walked[-1]
    assert sizes == ([1, 1, 2] if newest_first else [2, 1, 1])
    assert walked == sorted((each.id for each in (*large, small)), reverse=newest_first)
    async with db.begin(caller) as tx:
        assert len((await search.find(tx, Filters(), limit=100)).found) == 4


class TestTimes:
    async def test_bounds_are_to_the_millisecond(self, db: Database, caller: Caller) -> None:
        """After is inclusive and before is not; a float would be a millisecond off for some of these."""
        stored = [await store(db, caller, known) for known in made_up(random.Random(10), 25)]
        await settled(db, caller)
        for known in stored:
            a_moment = timedelta(milliseconds=1)
            assert known.id in await found(db, caller, Filters(created_after=known.at))
            assert known.id not in await found(db, caller, Filters(created_after=known.at + a_moment))
            assert known.id not in await found(db, caller, Filters(created_before=known.at))
            assert known.id in await found(db, caller, Filters(created_before=known.at + a_moment))

    def test_every_millisecond_has_its_own_first_id(self) -> None:
        begin = Known(UUID(int=1_700_000_000_000 << 80)).at
        for millis in range(2000):
            found = first_id(begin + timedelta(milliseconds=millis))
            assert found is not None
            assert found.int >> 80 == 1_700_000_000_000 + millis


HOSTILE = (
    "\0", "'", '"', '"""', "''''", "\\", "%", "&", "|", "!", "(", ")", "<->", ":*", "a:*", "a & | b", "!!", "-", "--", "- -",
    "or", "or or", "and", '"', '"unclosed', '""', "=1", "'=1/20/1'", "...", "?!", "\u200b", "\u202e", "\ufeff", "\U0001f600",
    "é\u0301" * 300, "x" * 1000, "\U0001d400" * 1000, "語" * 1000, "a " * 500, "-a " * 333, "a or " * 200, '"a" ' * 250,
    '"' * 1000, "<1>" * 300, "a-b-c-d/e/f@g.h:1", "http://a/b?c=d#e", "\r\n\t", " ", "1e309", "-1", "select 1; --", "\x7f\x01",
)  # fmt: skip


@pytest.mark.parametrize("question", HOSTILE, ids=lambda text: ascii(text)[:20])
async def test_any_question_has_an_answer(
    db: Database, caller: Caller, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "REACH", 1)
    stored = [await store(db, caller, Known(ids.new_uuid(), words=("zebra",))) for _ in range(3)]
    await settled(db, caller)
    seen = await found(db, caller, Filters(words=question))
    assert {*seen} <= {known.id for known in stored}
    if not any(letter.isalnum() for letter in question):
        assert seen == [], "of a question without a word nothing is the answer"


@pytest.mark.parametrize(
    "text",
    ["\0", "'", "x" * 600, "\U0001f600" * 600, "ünïcödé", "", " ", "%", "_", "\\", "\u202e"],
    ids=lambda text: ascii(text)[:20],
)
async def test_names_of_any_kind_are_found_as_they_are(db: Database, caller: Caller, text: str) -> None:
    """But for NUL, which no column holds, and what is longer than an index takes."""
    texts: dict[str, Any] = {"model": text, "user": text, "safety_identifier": text, "error_code": text}
    known = Known(
        ids.new_uuid(), **texts, metadata={text[:64]: text[:512]}, tools=(text,), status=Status.FAILED
    )
    await store(db, caller, known)
    await store(db, caller, Known(ids.new_uuid()))
    await settled(db, caller)
    cut = text[:512]
    asked: list[dict[str, Any]] = [{name: cut} for name in texts]
    asked += [{"metadata": {text[:64]: cut}}] + ([{"tool": cut}] if text else [])
    for each in asked:
        wanted = [known.id] if each != {"error_code": ""} else []
        assert await found(db, caller, Filters(**each)) == wanted, each


async def test_a_text_of_any_size_and_script_is_found_by_its_first_words(
    db: Database, caller: Caller
) -> None:
    """Of long compounds Postgres makes more than a tsvector may hold, if it is given too much."""
    rng = random.Random(11)
    scripts = [(0x61, 0x7A), (0x430, 0x44F), (0x4E00, 0x9FFF), (0x20000, 0x2A6DF)]
    for number, (first, last) in enumerate(scripts):
        some = ["".join(chr(rng.randint(first, last)) for _ in range(3)) for _ in range(60_000)]
        compounds = tuple(f"{one}-{other}" for one, other in zip(some[::2], some[1::2], strict=True))
        words = (f"first{number}", *compounds, f"last{number}")
        known = await store(db, caller, Known(ids.new_uuid(), words=words, place=None))
        await settled(db, caller)
        assert await found(db, caller, Filters(words=f"first{number}")) == [known.id]
        assert await found(db, caller, Filters(words=f"last{number}")) == [], "it is cut"


async def test_many_pairs_are_one_question(db: Database, caller: Caller) -> None:
    pairs = {f"key{number}": "v" * number for number in range(16)}
    known = await store(db, caller, Known(ids.new_uuid(), metadata=pairs))
    await store(db, caller, Known(ids.new_uuid(), metadata={**pairs, "key3": "other"}))
    await settled(db, caller)
    assert await found(db, caller, Filters(metadata=pairs)) == [known.id]
    assert await found(db, caller, Filters(metadata=pairs, words="x")) == []


async def test_the_place_of_a_known_response_is_its_own(db: Database, caller: Caller) -> None:
    root = await store(db, caller, Known(ids.new_uuid()))
    place = Place(root.id, 1)
    child = await store(db, caller, Known(ids.new_uuid(), previous=root.id, place=place))
    await settled(db, caller)
    assert await found(db, caller, Filters(root=root.id)) == [child.id, root.id]
    assert await found(db, caller, Filters(previous=root.id)) == [child.id]
