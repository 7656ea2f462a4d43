"""The claim of an `Idempotency-Key`: won once, fenced, freed by every end that stores nothing, forgotten in time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from app import ids
from app.domain.idempotency import IdempotencyKey, Kept, KeyClaim, fingerprint
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, ServiceError, Unavailable, UpstreamError
from app.generation import conversations as generation
from app.generation.accept import accept
from app.generation.claimed_run import run_claimed
from app.generation.composer import Composer
from app.generation.engine import SHUTDOWN, run
from app.generation.feed import Feed
from app.generation.idempotency import Rules, claim, held
from app.generation.keeping import NewRow
from app.generation.leases import LEASE_LOST, Leases
from app.generation.queueing import enqueue
from app.generation.rebuild import retell
from app.providers.base import Delta
from app.store import conversations, idempotency
from app.store.db import Database
from app.store.entries import Entries
from tests import grammar
from tests.background import a_background, body, execute
from tests.builders import a_caller, a_draft, a_response, a_run, all_stored, stored
from tests.conversing import a_conversation, said_in, take_away
from tests.generation.composing import parsed
from tests.generation.faults import AWAY, FaultyDatabase, heard
from tests.generation.test_rebuild import STREAMS
from tests.scripted import ScriptedProvider, Step, answer

HALF: Sequence[Delta] = answer()[:4]


async def _stays() -> bool:
    return False


async def _leaves() -> bool:
    return True


RULES = Rules(lease_seconds=30, retention_seconds=86400, wait_seconds=5, is_abandoned=_stays)


def a_key(body: Any = None) -> IdempotencyKey:
    return IdempotencyKey(ids.request_id(), fingerprint("POST", "/v1/responses", body))


async def won(db: Database, caller: Caller, key: IdempotencyKey, **rules: Any) -> KeyClaim:
    mine = await claim(db, caller, key, ids.new_uuid(), replace(RULES, **rules))
    assert isinstance(mine, KeyClaim)
    return mine


async def found(db: Database, caller: Caller, key: IdempotencyKey) -> Kept | None:
    async with db.read(caller) as tx:
        return await idempotency.find(tx, key.text)


def settled(key: IdempotencyKey, draft: Draft) -> Kept:
    return Kept(key.fingerprint, draft.id, is_running=False, answer=None)


async def vanish(database_url: str, key: IdempotencyKey) -> None:
    """Let the lease end, as if the process had been silent for so long."""
    command = "update idempotency_keys set lease_until = now() - interval '1 second' where key = $1"
    await execute(database_url, command, key.text)


async def age(database_url: str, key: IdempotencyKey, by: str) -> None:
    command = f"update idempotency_keys set created_at = created_at - interval '{by}' where key = $1"
    await execute(database_url, command, key.text)


@asynccontextmanager
async def leases(db: Database, lease_seconds: float = 30) -> AsyncGenerator[Leases[KeyClaim]]:
    """What renews the claims of a process."""
    claims = Leases(db, idempotency.renew, lease_seconds=lease_seconds)
    renewing = asyncio.ensure_future(claims.run())
    try:
        yield claims
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


async def start(
    db: Database,
    caller: Caller,
    mine: KeyClaim,
    provider: ScriptedProvider,
    *,
    keeps_in: Database | None = None,
    listener: Feed | None = None,
    **params: Any,
) -> tuple[Draft, Any]:
    """A foreground run for a claimed key, not begun yet."""
    draft = replace(a_draft(**params), id=mine.response_id)
    accepted = replace(await accept(db, caller, draft), claim=mine)
    kept = keeps_in or db
    keeper = NewRow(kept, Entries(kept, max_queued=9), caller, accepted, "scripted")
    it = await a_run(db, caller, provider, accepted=accepted, keeper=keeper, composer=Composer(draft))
    return draft, run(replace(it, listener=listener))


async def finish(db: Database, caller: Caller, mine: KeyClaim, *steps: Step, **params: Any) -> Draft:
    draft, running = await start(db, caller, mine, ScriptedProvider(steps), **params)
    async with leases(db) as claims:
        await run_claimed(running, mine, claims, db)
    return draft


class TestClaim:
    async def test_the_first_has_it_and_the_others_wait_for_its_response(
        self, db: Database, caller: Caller
    ) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        others = [asyncio.ensure_future(claim(db, caller, key, ids.new_uuid(), RULES)) for _ in range(5)]
        draft = await finish(db, caller, mine, *answer())
        for other in await asyncio.gather(*others):
            assert other == settled(key, draft)

    async def test_of_many_at_once_one_has_it(self, db: Database, caller: Caller) -> None:
        key, rules = a_key(), replace(RULES, wait_seconds=0)
        tries = [claim(db, caller, key, ids.new_uuid(), rules) for _ in range(50)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, KeyClaim) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 49

    async def test_another_request_is_refused_while_it_runs_and_after(
        self, db: Database, caller: Caller
    ) -> None:
        key = a_key({"a": 1})
        other = IdempotencyKey(key.text, fingerprint("POST", "/v1/responses", {"a": 2}))
        mine = await won(db, caller, key)
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="already used") as refused:
                await claim(db, caller, other, ids.new_uuid(), RULES)
            assert (refused.value.code, refused.value.param) == ("idempotency_key_reused", "Idempotency-Key")
            if await stored(db, caller, replace(a_draft(), id=mine.response_id)) is None:
                await finish(db, caller, mine, *answer())

    async def test_another_tenant_has_keys_of_its_own(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        key, stranger = a_key(), await a_caller(database_url)
        mine, theirs = await won(db, caller, key), await won(db, stranger, key)
        assert mine.response_id != theirs.response_id
        async with db.begin(stranger) as tx:
            assert not await idempotency.end(tx, replace(mine, tenant_id=stranger.tenant_id))
        assert await found(db, caller, key) == Kept(
            key.fingerprint, mine.response_id, is_running=True, answer=None
        )

    async def test_who_does_not_wait_any_more_is_not_waited_for(self, db: Database, caller: Caller) -> None:
        key = a_key()
        await won(db, caller, key)
        with pytest.raises(Unavailable, match="still running"):
            await claim(db, caller, key, ids.new_uuid(), replace(RULES, is_abandoned=_leaves))

    async def test_a_process_that_vanished_does_not_keep_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        key = a_key()
        first = await won(db, caller, key)
        waiting = asyncio.ensure_future(claim(db, caller, key, ids.new_uuid(), RULES))
        await vanish(database_url, key)
        second = await waiting
        assert isinstance(second, KeyClaim)
        assert second.response_id != first.response_id

    async def test_it_is_kept_for_as_long_as_the_response_is_prepared(
        self, db: Database, caller: Caller
    ) -> None:
        """A create may wait for its conversation for longer than any lease."""
        key = a_key()
        mine = await won(db, caller, key, lease_seconds=0.3)
        async with leases(db, 0.3) as claims, held(mine, claims, db):
            with pytest.raises(Unavailable):
                await claim(db, caller, key, ids.new_uuid(), replace(RULES, wait_seconds=1))

    async def test_it_is_given_up_when_the_preparation_fails(self, db: Database, caller: Caller) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        async with leases(db) as claims:
            with pytest.raises(InvalidRequest, match="no"):
                async with held(mine, claims, db):
                    raise InvalidRequest("no")
        assert await found(db, caller, key) is None

    async def test_who_lost_it_while_preparing_is_told(self, db: Database, caller: Caller) -> None:
        mine = await won(db, caller, a_key())
        async with leases(db) as claims:
            with pytest.raises(ServiceError, match="took the place"):
                await self._lose(mine, claims, db)
        task = asyncio.current_task()
        assert task
        assert not task.cancelling()

    async def _lose(self, mine: KeyClaim, claims: Leases[KeyClaim], db: Database) -> None:
        async with held(mine, claims, db):
            claims.lose(mine)
            await asyncio.Event().wait()


class TestEnds:
    @pytest.mark.parametrize(
        "steps", [answer(), [*HALF, UpstreamError("Gone.")]], ids=["completed", "failed"]
    )
    async def test_what_is_stored_settles_it(
        self, db: Database, caller: Caller, steps: Sequence[Step]
    ) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        draft = await finish(db, caller, mine, *steps)
        assert await found(db, caller, key) == settled(key, draft)
        assert await stored(db, caller, draft)

    async def test_a_refusal_before_the_beginning_gives_it_back(self, db: Database, caller: Caller) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        with pytest.raises(UpstreamError):
            await finish(db, caller, mine, UpstreamError("Busy."))
        assert await found(db, caller, key) is None

    async def test_one_that_a_stream_tells_of_has_given_it_back(self, db: Database, caller: Caller) -> None:
        """The client may be back before the run is wound up."""
        key, gate = a_key(), asyncio.Event()
        mine = await won(db, caller, key)
        provider = ScriptedProvider([UpstreamError("Busy.")])
        feed = Feed()
        feed.is_streaming = True
        _, running = await start(db, caller, mine, provider, listener=feed)
        async with leases(db) as claims:
            slow = FaultyDatabase(db, gate=gate)
            task = asyncio.ensure_future(run_claimed(running, mine, claims, slow))
            assert [event["type"] for event in await heard(feed)] == ["error"]
            assert await found(db, caller, key) is None
            gate.set()
            with pytest.raises(UpstreamError):
                await task

    @pytest.mark.parametrize(
        ("reason", "status"), [("", Status.CANCELLED), (SHUTDOWN, Status.FAILED)], ids=["hung up", "shutdown"]
    )
    async def test_a_client_that_hung_up_gives_it_back_and_a_shutdown_settles_it(
        self, db: Database, caller: Caller, reason: str, status: Status
    ) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        provider = ScriptedProvider([*HALF, asyncio.Event()])
        draft, running = await start(db, caller, mine, provider)
        async with leases(db) as claims:
            task = asyncio.ensure_future(run_claimed(running, mine, claims, db))
            await provider.is_stalled.wait()
            task.cancel(reason)
            await asyncio.wait([task])
        row = await stored(db, caller, draft)
        assert row
        assert row.status is status
        assert (await found(db, caller, key) is None) is (status is Status.CANCELLED)

    async def test_who_lost_it_stores_nothing(self, db: Database, caller: Caller, database_url: str) -> None:
        key, gate = a_key(), asyncio.Event()
        mine = await won(db, caller, key)
        provider = ScriptedProvider([*HALF, gate, *answer()[4:]])
        _, running = await start(db, caller, mine, provider)
        async with leases(db) as claims:
            task = asyncio.ensure_future(run_claimed(running, mine, claims, db))
            await vanish(database_url, key)
            second = await won(db, caller, key)
            gate.set()
            with pytest.raises(ServiceError, match="took the place"):
                await task
        assert await all_stored(db, caller) == []
        draft = await finish(db, caller, second, *answer())
        assert [row.id for row in await all_stored(db, caller)] == [draft.id]

    async def test_a_lease_that_ended_unnoticed_does_no_harm(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        await vanish(database_url, key)
        draft = await finish(db, caller, mine, *answer())
        assert await found(db, caller, key) == settled(key, draft)

    async def test_a_lost_lease_stops_the_run(self, db: Database, caller: Caller) -> None:
        key, provider = a_key(), ScriptedProvider([asyncio.Event()])
        mine = await won(db, caller, key)
        _, running = await start(db, caller, mine, provider)
        async with leases(db) as claims:
            task = asyncio.ensure_future(run_claimed(running, mine, claims, db))
            await provider.is_stalled.wait()
            task.cancel(LEASE_LOST)
            with pytest.raises(ServiceError, match="took the place"):
                await task

    async def test_a_commit_whose_answer_was_lost_is_repeated_harmlessly(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.generation.engine.COMMIT_PAUSES_SECONDS", (0.01,))
        key = a_key()
        mine = await won(db, caller, key)
        faulty = FaultyDatabase(db, after=[AWAY])
        draft, running = await start(db, caller, mine, ScriptedProvider(answer()), keeps_in=faulty)
        async with leases(db) as claims:
            await run_claimed(running, mine, claims, db)
        assert await found(db, caller, key) == settled(key, draft)
        assert len(await all_stored(db, caller)) == 1

    @pytest.mark.parametrize("is_taken", [False, True], ids=["appended", "lost"])
    async def test_in_a_conversation_it_is_settled_with_the_turn_or_not_at_all(
        self, db: Database, caller: Caller, database_url: str, *, is_taken: bool
    ) -> None:
        key, gate, name = a_key(), asyncio.Event(), await a_conversation(db, caller, "zero")
        mine = await won(db, caller, key)
        provider = ScriptedProvider([*HALF, gate, *answer("one")[4:]])
        draft, running = await start(db, caller, mine, provider, conversation=name)
        async with leases(db) as claims:
            task = asyncio.ensure_future(run_claimed(running, mine, claims, db))
            await provider.is_stalled.wait()
            if is_taken:
                await take_away(database_url, name)
            gate.set()
            await asyncio.wait([task])
        assert isinstance(task.exception(), ServiceError) is is_taken
        assert await found(db, caller, key) == (None if is_taken else settled(key, draft))
        assert len(await said_in(db, caller, name)) == (1 if is_taken else 3)


class TestBackground:
    async def test_queueing_settles_it(self, db: Database, caller: Caller) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        draft = replace(a_draft(background=True), id=mine.response_id)
        accepted = replace(await accept(db, caller, draft), claim=mine)
        await enqueue(db, Entries(db, max_queued=9), caller, accepted)
        assert await found(db, caller, key) == settled(key, draft)
        assert (await body(db, caller, draft.id))["status"] == "queued"

    async def test_who_lost_it_queues_nothing(self, db: Database, caller: Caller, database_url: str) -> None:
        key = a_key()
        mine = await won(db, caller, key)
        await vanish(database_url, key)
        await won(db, caller, key)
        draft = replace(a_draft(background=True), id=mine.response_id)
        accepted = replace(await accept(db, caller, draft), claim=mine)
        with pytest.raises(ServiceError, match="took the place"):
            await enqueue(db, Entries(db, max_queued=9), caller, accepted)
        assert await stored(db, caller, draft) is None


class TestRetention:
    async def test_an_old_key_stands_for_nothing_even_before_it_is_removed(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        key = a_key()
        first = await finish(db, caller, await won(db, caller, key), *answer())
        await age(database_url, key, "25 hours")
        assert (await won(db, caller, key)).response_id != first.id

    async def test_the_reaper_removes_what_is_old(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """But not what still runs."""
        ended, young, running, lost = (a_key() for _ in range(4))
        await finish(db, caller, await won(db, caller, ended), *answer())
        await finish(db, caller, await won(db, caller, young), *answer())
        await won(db, caller, running)
        await won(db, caller, lost)
        for key in (ended, running, lost):
            await age(database_url, key, "25 hours")
        await vanish(database_url, lost)
        await a_background(db).reap()
        rows = await execute(
            database_url, "select key from idempotency_keys where tenant_id = $1", caller.tenant_id
        )
        assert {row["key"] for row in rows} == {young.text, running.text}


class TestWrites:
    """A conversation's writes claim their key in their own transaction."""

    async def test_a_crash_in_between_undoes_both(self, db: Database, caller: Caller) -> None:
        key = a_key()
        with pytest.raises(UpstreamError):
            await self._break_off(db, caller, key)
        assert await found(db, caller, key) is None
        async with db.read(caller) as tx:
            page = await conversations.page(tx, limit=1, newest_first=True, after=None, metadata={})
        assert page == []

    async def _break_off(self, db: Database, caller: Caller, key: IdempotencyKey) -> None:
        async with db.begin(caller) as tx:
            assert await idempotency.claim(tx, key, None, lease_seconds=None, retention_seconds=60) is None
            await generation.create(tx, {}, ids.new_uuid(), a_draft().input)
            raise UpstreamError("Struck by lightning.")

    async def test_what_was_answered_is_kept(self, db: Database, caller: Caller) -> None:
        key = a_key()
        async with db.begin(caller) as tx:
            assert await idempotency.claim(tx, key, None, lease_seconds=None, retention_seconds=60) is None
            await idempotency.answer(tx, key.text, b'{"a":"b"}')
        assert await found(db, caller, key) == Kept(
            key.fingerprint, None, is_running=False, answer=b'{"a":"b"}'
        )


BEGUN = [name for name, steps in STREAMS.items() if not isinstance(steps[0], Exception)]


class TestRetell:
    @pytest.mark.parametrize("name", BEGUN)
    async def test_a_stream_that_is_said_again_is_well_formed_and_adds_up_to_the_response(
        self, db: Database, caller: Caller, name: str
    ) -> None:
        composer = await a_response(db, caller, *STREAMS[name], params={"stream": True})
        (row,) = await all_stored(db, caller)
        assert composer.json == row.json()
        assert grammar.check(parsed(retell(row))) == await body(db, caller, row.id)
