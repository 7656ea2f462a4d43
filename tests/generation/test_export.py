"""Exports: whole and exact, the same however often they break off, and nothing that came later."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app import ids
from app.domain.gates import Gated
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, Unavailable
from app.generation import engine, export, export_begin, export_check
from app.generation.export_check import Wrong
from app.store import audit, exports, lifecycle, responses, search
from app.store.db import Database
from tests.background import enqueued
from tests.builders import a_caller, a_draft, a_response, a_run
from tests.exporting import (
    SIGNER,
    a_ledger,
    begun,
    exported,
    kept,
    names,
    objects,
    pieces,
    rest,
    resumed,
    with_many_cursors,
)
from tests.scripted import ScriptedProvider, answer
from tests.store.turns import a_turn, add, delete


async def some(db: Database, caller: Caller, count: int = 5) -> list[str]:
    """So many responses, and their ids."""
    made = [await a_response(db, caller, params={"metadata": {"n": str(n)}}) for n in range(count)]
    return [orjson.loads(each.body)["id"] for each in made]


async def trail(db: Database, caller: Caller) -> list[dict[str, Any]]:
    """What the trail says of exports, oldest first."""
    await a_ledger(db).settle(caller)
    async with db.read(caller) as tx:
        records = await audit.page(tx, limit=1000, newest_first=False)
    return [orjson.loads(each.note.data) for each in records if each.note.action == 8]


class TestContent:
    async def test_it_says_what_get_answers_and_what_was_given(self, db: Database, caller: Caller) -> None:
        made = await some(db, caller)
        raw = await exported(db, caller)
        assert names(raw) == made
        for each in objects(raw, "export.response"):
            key = ids.parse_response_id(each["response"]["id"])
            assert key
            async with db.read(caller) as tx:
                stored = await responses.get(tx, key)
            assert stored
            assert orjson.dumps(each["response"]) == stored.json()
            assert orjson.dumps(each["input"])[1:-1] == stored.input_blob
            assert each["attempts"] == 0
            assert each["finished_at"].endswith("+00:00")

    async def test_gated_fields_are_shown(self, db: Database, caller: Caller) -> None:
        item = {"type": "message", "content": [{"type": "input_image", "image_url": "data:secret"}]}
        await add(db, caller, input_blob=orjson.dumps(item), input_gated=Gated.INPUT_IMAGE_URL)
        [said] = objects(await exported(db, caller), "export.response")
        assert said["input"] == [item]

    async def test_it_is_whole_and_proven(self, db: Database, caller: Caller) -> None:
        made = await some(db, caller)
        raw = await exported(db, caller)
        verdict = export_check.verify(raw.splitlines(keepends=True), trusted=SIGNER.trusted)
        assert (verdict.responses, verdict.proven) == (len(made), len(made))
        assert verdict.audit_records == verdict.vouched_seq == verdict.head.seq == len(made)

    async def test_an_empty_one_is_whole_too(self, db: Database, caller: Caller) -> None:
        raw = await exported(db, caller)
        assert objects(raw)[0]["until"] is None
        assert objects(raw)[-1]["responses"] == 0
        assert export_check.verify(raw.splitlines(keepends=True)).audit_records == 0

    async def test_numbers_and_words_of_every_kind_are_proven(self, db: Database, caller: Caller) -> None:
        odd = {"type": "x", "a": [1.0, -0.0, 1e300, 5e-324, 2**63, -(2**63), 0.1], "b": '\u2028\0é😀\\"'}
        blob = orjson.dumps(odd)
        await add(db, caller, input_blob=blob, output_blob=blob)
        await add(db, caller, input_blob=b"", input_count=0)
        raw = await exported(db, caller)
        assert export_check.verify(raw.splitlines(keepends=True)).proven == 2

    async def test_what_has_not_ended_is_left_out(self, db: Database, caller: Caller) -> None:
        await enqueued(db, caller)
        [made] = await some(db, caller, 1)
        assert names(await exported(db, caller)) == [made]


class TestFilters:
    @pytest.mark.parametrize(
        "filters",
        [
            {"metadata": {"n": "2"}},
            {"model": "a-model-1"},
            {"model": "another"},
            {"status": Status.COMPLETED},
            {"status": Status.FAILED},
            {"status": Status.QUEUED},
            {"is_background": True},
            {"words": "hello"},
            {"words": "hello -hello"},
            {"created_after": datetime(2020, 1, 1, tzinfo=UTC)},
            {"created_before": datetime(2020, 1, 1, tzinfo=UTC)},
        ],
    )
    async def test_it_has_what_the_list_has(
        self, db: Database, caller: Caller, filters: dict[str, Any]
    ) -> None:
        await some(db, caller)
        await enqueued(db, caller)
        raw = await exported(db, caller, **filters)
        async with db.begin(caller) as tx:
            page = await search.find_whole(tx, Filters(**filters), limit=100, newest_first=False)
        ended = [ids.response_id(each.id) for each in page.found if each.status >= Status.COMPLETED]
        assert names(raw) == ended
        assert objects(raw)[0]["filters"].keys() == {
            {"is_background": "background", "words": "q"}.get(name, name) for name in filters
        }

    async def test_others_have_no_part_in_it(self, db: Database, caller: Caller, database_url: str) -> None:
        await some(db, caller, 2)
        stranger = await a_caller(database_url)
        raw = await exported(db, stranger)
        assert [each["object"] for each in objects(raw)] == [
            "export", "export.cursor", "export.manifest"
        ]  # fmt: skip


class TestResuming:
    async def test_cut_off_anywhere_it_comes_to_the_same(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_many_cursors(monkeypatch)
        await some(db, caller, 4)
        whole = await exported(db, caller, metadata={})
        first = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        ends = [at + 1 for at, byte in enumerate(whole) if byte == 10 and at + 1 >= first]
        assert len(ends) > 10
        for cut in sorted({*ends, *(end + 7 for end in ends[:-1]), *(end - 1 for end in ends[1:])}):
            before, cursor = kept(whole[:cut])
            assert before + await resumed(db, caller, cursor) == whole

    async def test_the_pages_that_it_is_read_in_do_not_show(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await some(db, caller, 7)
        whole = await exported(db, caller)
        _, cursor = kept(b"".join(whole.splitlines(keepends=True)[:2]))
        monkeypatch.setattr(export, "FIRST_ROWS", 2)
        monkeypatch.setattr(export, "PAGE_BYTES", 1)
        monkeypatch.setattr(export, "RECORDS", 2)
        assert whole.endswith(await resumed(db, caller, cursor))

    async def test_what_came_meanwhile_is_not_in_it(self, db: Database, caller: Caller) -> None:
        """Not even what was accepted before, and ended after."""
        late = await a_run(db, caller, ScriptedProvider(answer(), db=db), a_draft())
        made = await some(db, caller)
        started = await begun(db, caller)
        await engine.run(late)
        await some(db, caller)
        assert ids.response_id(late.accepted.draft.id) < made[0]
        raw = await rest(db, caller, started)
        assert names(raw) == made
        assert export_check.verify(raw.splitlines(keepends=True)).audit_records == len(made)

    async def test_what_was_deleted_meanwhile_is_not_in_it(self, db: Database, caller: Caller) -> None:
        turns = [await add(db, caller, model="gone") for _ in range(2 * export.FIRST_ROWS + 3)]
        started = await begun(db, caller, model="gone")
        for turn in turns[:-1]:
            await delete(db, caller, turn)
        assert names(await rest(db, caller, started)) == [ids.response_id(turns[-1].id)]

    async def test_what_is_being_committed_is_waited_for(self, db: Database, caller: Caller) -> None:
        """It is dated before the moment that bounds the export, and cannot be seen yet."""
        turn = a_turn()
        async with db.begin(caller) as tx:
            await lifecycle.append(tx, turn)
            starting = asyncio.ensure_future(begun(db, caller))
            await asyncio.wait({starting}, timeout=0.2)
            assert not starting.done()
        assert names(await rest(db, caller, await starting)) == [ids.response_id(turn.id)]

    @pytest.mark.parametrize("spoil", ["", "x", "AAAA", "é", "=" * 8])
    async def test_what_is_no_cursor_is_refused(self, db: Database, caller: Caller, spoil: str) -> None:
        with pytest.raises(InvalidRequest, match="it is not a cursor of an export") as refused:
            await resumed(db, caller, spoil)
        assert refused.value.param == "resume"

    async def test_a_cursor_is_good_for_one_tenant_and_its_filters(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        _, cursor = kept(await exported(db, caller))
        with pytest.raises(InvalidRequest, match="it is not a cursor of an export"):
            await resumed(db, await a_caller(database_url), cursor)
        with pytest.raises(InvalidRequest, match="other filters"):
            await resumed(db, caller, cursor, model="x")
        for place in range(len(cursor)):
            forged = cursor[:place] + ("_" if cursor[place] != "_" else "A") + cursor[place + 1 :]
            try:
                await resumed(db, caller, forged)
            except InvalidRequest:
                continue


class TestReading:
    async def test_no_connection_waits_for_a_slow_reader(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_many_cursors(monkeypatch)
        await some(db, caller)
        async for _ in pieces(db, caller, await begun(db, caller)):
            assert db.checked_out == 0

    async def test_a_page_is_as_small_as_its_responses_are_large(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "FIRST_ROWS", 4)
        monkeypatch.setattr(export, "PAGE_BYTES", 20_000)
        for size in (*[1] * 12, *[9_000] * 100, *[1] * 40):
            await add(db, caller, input_blob=b'{"id":"%b"}' % (b"x" * size))
        started, _ = await begun(db, caller)
        pages = [len(page) async for page in export.responses(db, caller, started)]
        assert pages[:2] == [4, 8]
        assert pages[3:10] == [2] * 7
        assert pages[-2] > 2

    async def test_when_postgres_goes_away_it_breaks_off_and_goes_on_later(
        self, database_url: str, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_many_cursors(monkeypatch)
        await some(db, caller)
        doomed = await Database.connect(database_url, size=1)
        going_on = pieces(doomed, caller, await begun(db, caller))
        said = await anext(going_on) + await anext(going_on)
        await doomed.close()
        with pytest.raises(Unavailable):
            await anext(going_on)
        before, cursor = kept(said)
        raw = before + await resumed(db, caller, cursor)
        assert export_check.verify(raw.splitlines(keepends=True)).responses == 5


class TestTrail:
    async def test_beginning_breaking_off_and_ending_are_noted(self, db: Database, caller: Caller) -> None:
        await some(db, caller, 2)
        raw = await exported(db, caller, model="a-model-1")
        _, cursor = kept(b"".join(raw.splitlines(keepends=True)[:2]))
        await resumed(db, caller, cursor, model="a-model-1")
        said = await trail(db, caller)
        manifest = objects(raw)[-1]
        assert [each["state"] for each in said] == ["begun", "ended", "resumed", "ended"]
        assert {each["export"] for each in said} == {manifest["id"]}
        assert said[0]["filters"] == {"model": "a-model-1"}
        assert said[1]["chained_sha256"] == said[3]["chained_sha256"] == manifest["chained_sha256"]
        assert said[1]["responses"] == 2

    async def test_the_segment_begins_before_what_was_asked_for(self, db: Database, caller: Caller) -> None:
        await some(db, caller, 3)
        await exported(db, caller)
        later = datetime.now(UTC) + timedelta(hours=1)
        raw = await exported(db, caller, created_after=later)
        header = objects(raw)[0]
        # What the first export has vouched for; its own records follow.
        assert header["audit_after"]["seq"] == 3
        assert objects(raw)[2] == {**objects(raw)[2], "object": "audit.checkpoint", "seq": 3}
        verdict = export_check.verify(raw.splitlines(keepends=True), trusted=SIGNER.trusted)
        assert (verdict.audit_records, verdict.checkpoints, verdict.signed) == (2, 2, 2)

    async def test_a_checkpoint_that_is_made_later_is_not_in_it(self, db: Database, caller: Caller) -> None:
        """Without a key this process vouches for nothing; a worker may, while the export runs."""
        await some(db, caller, 2)
        keyless = export_begin.begin(export_begin.Ledger(db), caller, Filters(), form="jsonl")
        started = await keyless
        assert not started[0].bounds.is_vouched
        await begun(db, caller)
        raw = await rest(db, caller, started)
        assert objects(raw, "audit.checkpoint") == []
        assert export_check.verify(raw.splitlines(keepends=True)).audit_records == 2


def spoilt(raw: bytes, line: int, old: bytes, new: bytes) -> list[bytes]:
    lines = raw.splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    return lines


class TestVerifying:
    @pytest.fixture
    async def raw(self, db: Database, caller: Caller) -> bytes:
        await some(db, caller, 3)
        return await exported(db, caller)

    @pytest.mark.parametrize(
        ("line", "old", "new", "reason"),
        [
            (0, b'"tenant":', b'"tenant":9', "line 6: record 1 was changed"),
            (0, b'"format_version":1', b'"format_version":2', "line 1: it does not begin"),
            (2, b"world", b"earth", "chained_sha256"),
            (5, b'"data":"', b'"data":" ', "line 6: record 1 was changed"),
            (5, b'"seq":1', b'"seq":2', "line 6: record 1 is missing"),
            (5, b'"object":"audit.record"', b'"object":"export.manifest"', "line 6: 'responses'"),
            (8, b'"signature":"', b'"signature":"00', "line 9: the checkpoint of record 3 was changed"),
            (9, b'"responses":3', b'"responses":4', "line 10: the manifest says 4 for 'responses'"),
            (9, b'"seq":3', b'"seq":5', "line 10: the trail ends with record 3, and not as the manifest"),
        ],
    )
    async def test_what_was_changed_is_named(
        self, raw: bytes, line: int, old: bytes, new: bytes, reason: str
    ) -> None:
        with pytest.raises(Wrong, match=reason):
            export_check.verify(spoilt(raw, line, old, new))

    async def test_content_that_the_trail_does_not_know_is_named(self, raw: bytes) -> None:
        """Though every hash of the file was made anew."""
        lines = spoilt(raw, 2, b"world", b"earth")
        checking = export_check._Checking(())
        for line in lines[:-1]:
            checking.take(line)
        checking._chain.close()
        forged = orjson.loads(lines[-1]) | {"chained_sha256": checking._chain.place.chain.hex()}
        with pytest.raises(Wrong, match="is not what the trail says was stored"):
            export_check.verify([*lines[:-1], orjson.dumps(forged) + b"\n"])

    async def test_every_cut_is_noticed(self, raw: bytes) -> None:
        lines = raw.splitlines(keepends=True)
        for count in range(len(lines)):
            with pytest.raises(Wrong, match="it has no manifest"):
                export_check.verify(lines[:count])
        with pytest.raises(Wrong, match="breaks off in the middle of a line"):
            export_check.verify([*lines[:-1], lines[-1][:-1]])
        with pytest.raises(Wrong, match="nothing comes behind"):
            export_check.verify([*lines, lines[-1]])

    async def test_a_line_that_is_missing_or_moved_is_noticed(self, raw: bytes) -> None:
        lines = raw.splitlines(keepends=True)
        for place in range(2, len(lines) - 1):
            with pytest.raises(Wrong):
                export_check.verify(lines[:place] + lines[place + 1 :])
            with pytest.raises(Wrong):
                export_check.verify([*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]])

    async def test_only_trusted_signatures_count(self, raw: bytes) -> None:
        verdict = export_check.verify(raw.splitlines(keepends=True), trusted=[bytes(32)])
        assert (verdict.checkpoints, verdict.signed, verdict.vouched_seq) == (1, 0, 0)

    @pytest.mark.parametrize("junk", [b"\n", b"[]\n", b"{}\n", b"null\n", b"\xff\n", b'{"object":7}\n'])
    async def test_junk_is_told_as_such(self, raw: bytes, junk: bytes) -> None:
        for place in (0, 3):
            lines = raw.splitlines(keepends=True)
            lines[place] = junk
            with pytest.raises(Wrong, match=f"^line {place + 1}: "):
                export_check.verify(lines)


async def test_nothing_waits_where_nothing_is_noted(db: Database, caller: Caller) -> None:
    async with db.read(caller) as tx:
        found = await exports.waiting(tx)
    assert found.oldest > found.newest
