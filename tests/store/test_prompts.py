"""Prompts as rows: numbered without gaps, whoever writes beside whom, and found by their indexes."""

import asyncio
from typing import Any

from app import ids
from app.domain.prompts import MAX_PROMPTS, Prompt
from app.domain.tenancy import Caller
from app.store import prompts
from app.store.db import Database
from tests.background import execute
from tests.store.explaining import explained, name_of

NAME = "pmpt_mine"


async def put(db: Database, caller: Caller, name: str = NAME, **template: Any) -> Prompt:
    prompt = Prompt(ids.new_uuid(), name, "n", {"a": "ü"}, latest=1, pinned=None)
    async with db.begin(caller) as tx:
        assert await prompts.create(tx, prompt, template)
    return prompt


async def extend(db: Database, caller: Caller, **template: Any) -> int | None:
    async with db.begin(caller) as tx:
        extended = await prompts.extend(tx, NAME, template)
    return extended[1].number if extended else None


async def delete(db: Database, caller: Caller) -> bool:
    async with db.begin(caller) as tx:
        return await prompts.delete(tx, NAME) is not None


async def numbers(db: Database, caller: Caller, prompt: Prompt) -> list[int]:
    async with db.read(caller) as tx:
        found = await prompts.versions(tx, prompt.key, limit=99, newest_first=False, after=None)
    return [version.number for version in found]


async def test_it_is_read_as_it_was_put(db: Database, caller: Caller) -> None:
    made = await put(db, caller, instructions="\0 {{x}} 😀")
    async with db.read(caller) as tx:
        found = await prompts.find(tx, NAME)
    assert found
    assert found[0] == made
    assert found[1]
    assert found[1].template["instructions"] == "\0 {{x}} 😀"


async def test_of_one_id_there_is_one_prompt(db: Database, caller: Caller) -> None:
    made = await put(db, caller)
    async with db.begin(caller) as tx:
        assert await prompts.create(tx, Prompt(ids.new_uuid(), NAME, "", {}, 1, None), {}) is None
    assert await numbers(db, caller, made) == [1]


async def test_put_at_once_there_are_no_more_of_them(db: Database, caller: Caller, database_url: str) -> None:
    await execute(
        database_url,
        "insert into prompts (tenant_id, key, id, name, metadata, latest) "
        "select $1, gen_random_uuid(), 'p' || i, '', '{}', 1 from generate_series(1, $2::int) i",
        caller.tenant_id,
        MAX_PROMPTS - 1,
    )

    async def make(place: int) -> bool:
        async with db.begin(caller) as tx:
            prompt = Prompt(ids.new_uuid(), f"pmpt_{place}", "", {}, latest=1, pinned=None)
            return await prompts.create(tx, prompt, {}) is not None

    made = await asyncio.gather(*(make(place) for place in range(8)))
    assert made.count(True) == 1


async def test_versions_put_at_once_have_numbers_without_gaps(db: Database, caller: Caller) -> None:
    made = await put(db, caller)
    found = await asyncio.gather(*(extend(db, caller, top_p=0.5) for _ in range(10)))
    assert sorted(number or 0 for number in found) == list(range(2, 12))
    assert await numbers(db, caller, made) == list(range(1, 12))


async def test_of_a_deleted_prompt_nothing_is_left(db: Database, caller: Caller) -> None:
    """Also where versions are added meanwhile."""
    made = await put(db, caller)
    writers = [extend(db, caller) for _ in range(4)]
    await asyncio.gather(*writers[:2], delete(db, caller), *writers[2:])
    async with db.read(caller) as tx:
        assert await prompts.find(tx, NAME) is None
    assert await numbers(db, caller, made) == []
    assert not await delete(db, caller)


async def test_a_pinned_version_stays_the_default(db: Database, caller: Caller) -> None:
    made = await put(db, caller, model="one")
    await extend(db, caller, model="two")
    async with db.begin(caller) as tx:
        changed = await prompts.update(tx, Prompt(made.key, NAME, "", {}, 2, 1))
    assert changed
    assert (changed.default, changed.latest) == (1, 2)
    for number, model in ((None, "one"), (1, "one"), (2, "two")):
        async with db.read(caller) as tx:
            found = await prompts.find(tx, NAME, number)
        assert found
        assert found[1]
        assert found[1].template == {"model": model}
    async with db.read(caller) as tx:
        assert await prompts.find(tx, NAME, 3) == (changed, None)


async def test_a_create_finds_its_template_by_two_keys(db: Database, caller: Caller) -> None:
    text = "x" * 1900
    made = [await put(db, caller, f"pmpt_{number}", instructions=text) for number in range(300)]
    async with db.begin_system() as tx:
        await tx._driver.execute("analyze prompts, prompt_versions")
    [found] = await explained(db, caller, lambda tx: prompts.find(tx, made[7].id))
    assert {name_of(scan) for scan in found.scans} == {"pk_prompts", "pk_prompt_versions"}
    assert found.read == 2
    [page] = await explained(
        db, caller, lambda tx: prompts.page(tx, limit=20, newest_first=True, after=made[200].key)
    )
    assert {name_of(scan) for scan in page.scans} == {"uq_prompts__key"}
    assert page.read == 20
