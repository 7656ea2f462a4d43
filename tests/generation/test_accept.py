"""What a request may refer to: parents, open calls, items of other responses (behaviours 6-17 and 25-30)."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from app import ids
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, NotFound
from app.generation import engine
from app.generation.accept import Accepted, accept
from app.generation.composer import Composer
from app.providers.base import Finished, ItemFinished, Started
from app.store import responses
from app.store.db import Database
from tests.builders import a_caller, a_draft, a_response, a_run
from tests.scripted import DONE, ScriptedProvider, answer, call

GHOST = "resp_019a0000000070008000000000000000"


def name_of(composer: Composer) -> str:
    return orjson.loads(composer.json)["id"]


def texts(accepted: Accepted, upstream: str = "scripted") -> list[str]:
    """What was said before the new input, oldest first."""
    blobs = accepted.items(upstream)[:-1]
    items = orjson.loads(b"[" + b",".join(blob for blob in blobs if blob) + b"]")
    return [part["text"] for item in items for part in item.get("content", ())]


async def said(db: Database, caller: Caller, text: str, reply: str, parent: str | None = None) -> str:
    """A stored turn of one question and one answer; its id."""
    params = {"input": text, "previous_response_id": parent}
    return name_of(await a_response(db, caller, *answer(reply), params=params))


async def called(db: Database, caller: Caller, *call_ids: str, **params: Any) -> str:
    """A stored turn that leaves these calls open; its id."""
    steps = [delta for slot, each in enumerate(call_ids) for delta in call(each, slot=slot)]
    return name_of(await a_response(db, caller, Started(), *steps, DONE, params=params))


def child(parent: str | None, items: str | Sequence[Any] = "Next?", **params: Any) -> Draft:
    return a_draft(input=items, previous_response_id=parent, **params)


def output(call_id: str) -> dict[str, str]:
    return {"type": "function_call_output", "call_id": call_id, "output": "ok"}


async def deleted(db: Database, caller: Caller, response: str) -> None:
    key = ids.parse_response_id(response)
    assert key
    async with db.begin(caller) as tx:
        assert await responses.delete(tx, key)


class TestUnfitParents:
    """The same words, whatever the reason (law L7)."""

    async def refused(self, db: Database, caller: Caller, parent: str) -> None:
        with pytest.raises(InvalidRequest) as raised:
            await accept(db, caller, child(parent))
        error = raised.value
        assert error.message == f"Previous response with id '{parent}' not found."
        assert (error.status, error.code, error.param) == (
            400,
            "previous_response_not_found",
            "previous_response_id",
        )

    @pytest.mark.parametrize("parent", [GHOST, "resp_short", "resp_" + "Z" * 32, GHOST.upper(), "resp_"])
    async def test_one_that_never_was(self, db: Database, caller: Caller, parent: str) -> None:
        await self.refused(db, caller, parent)

    async def test_another_tenants(self, db: Database, caller: Caller, database_url: str) -> None:
        other = await a_caller(database_url)
        await self.refused(db, caller, await said(db, other, "Hi", "Hello"))

    async def test_a_deleted_one(self, db: Database, caller: Caller) -> None:
        parent = await said(db, caller, "Hi", "Hello")
        await deleted(db, caller, parent)
        await self.refused(db, caller, parent)

    async def test_one_that_was_not_stored(self, db: Database, caller: Caller) -> None:
        await self.refused(db, caller, name_of(await a_response(db, caller, params={"store": False})))

    async def test_one_that_failed(self, db: Database, caller: Caller) -> None:
        await self.refused(db, caller, name_of(await a_response(db, caller, Started(), Finished("failed"))))

    async def test_one_that_was_cancelled(self, db: Database, caller: Caller) -> None:
        run = await a_run(db, caller, ScriptedProvider([Started()]))
        run.composer.feed(Started())
        await engine._finish(run, Status.CANCELLED, None)
        await self.refused(db, caller, name_of(run.composer))

    async def test_it_is_noticed_before_an_item_that_cannot_be_found(
        self, db: Database, caller: Caller
    ) -> None:
        with pytest.raises(InvalidRequest):
            await accept(db, caller, child(GHOST, [{"type": "item_reference", "id": "msg_ghost"}]))


class TestHistory:
    async def test_a_first_turn_has_none(self, db: Database, caller: Caller) -> None:
        draft = a_draft()
        accepted = await accept(db, caller, draft)
        assert (accepted.draft, accepted.ancestry, accepted.items("scripted")) == (
            draft,
            None,
            (draft.input.blob,),
        )

    async def test_it_is_every_turn_before_in_order(self, db: Database, caller: Caller) -> None:
        first = await said(db, caller, "1?", "1!")
        second = await said(db, caller, "2?", "2!", first)
        assert texts(await accept(db, caller, child(second))) == ["1?", "1!", "2?", "2!"]

    async def test_an_incomplete_parent_is_part_of_it(self, db: Database, caller: Caller) -> None:
        steps = [*answer("cut")[:-1], Finished("incomplete", reason="max_output_tokens")]
        parent = name_of(await a_response(db, caller, *steps))
        assert texts(await accept(db, caller, child(parent))) == ["Hi", "cut"]

    async def test_branches_see_only_their_own_line(self, db: Database, caller: Caller) -> None:
        root = await said(db, caller, "root?", "root!")
        left = await said(db, caller, "left?", "left!", root)
        right = await said(db, caller, "right?", "right!", root)
        twig = await said(db, caller, "twig?", "twig!", right)
        leaf = await said(db, caller, "leaf?", "leaf!", right)
        trunk, ours = ["root?", "root!"], ["right?", "right!"]
        assert texts(await accept(db, caller, child(left))) == [*trunk, "left?", "left!"]
        assert texts(await accept(db, caller, child(twig))) == [*trunk, *ours, "twig?", "twig!"]
        assert texts(await accept(db, caller, child(leaf))) == [*trunk, *ours, "leaf?", "leaf!"]
        assert texts(await accept(db, caller, child(root))) == trunk

    async def test_two_children_may_be_made_at_once(self, db: Database, caller: Caller) -> None:
        root = await said(db, caller, "root?", "root!")
        runs = [
            await a_run(db, caller, ScriptedProvider(answer(f"{side}!")), child(root, f"{side}?"))
            for side in ("left", "right")
        ]
        for side, run in zip(("left", "right"), runs, strict=True):
            made = await engine.run(run)
            accepted = await accept(db, caller, child(name_of(made)))
            assert texts(accepted) == ["root?", "root!", f"{side}?", f"{side}!"]

    async def test_a_deleted_turn_stays_in_its_descendants_history(
        self, db: Database, caller: Caller
    ) -> None:
        first = await said(db, caller, "1?", "1!")
        second = await said(db, caller, "2?", "2!", first)
        await deleted(db, caller, first)
        assert texts(await accept(db, caller, child(second))) == ["1?", "1!", "2?", "2!"]

    async def test_a_response_that_is_not_stored_may_continue_one_that_is(
        self, db: Database, caller: Caller
    ) -> None:
        parent = await said(db, caller, "1?", "1!")
        assert texts(await accept(db, caller, child(parent, store=False))) == ["1?", "1!"]


class TestCalls:
    async def refused(self, db: Database, caller: Caller, draft: Draft) -> str:
        with pytest.raises(InvalidRequest) as raised:
            await accept(db, caller, draft)
        assert (raised.value.param, raised.value.code) == ("input", None)
        return raised.value.message

    async def test_an_open_call_must_be_answered(self, db: Database, caller: Caller) -> None:
        parent = await called(db, caller, "call_1")
        assert (
            await self.refused(db, caller, child(parent)) == "No tool output found for function call call_1."
        )

    async def test_parallel_calls_must_all_be_answered(self, db: Database, caller: Caller) -> None:
        parent = await called(db, caller, "call_1", "call_2")
        message = await self.refused(db, caller, child(parent, [output("call_1")]))
        assert message == "No tool output found for function call call_2."

    async def test_outputs_may_come_in_any_order(self, db: Database, caller: Caller) -> None:
        parent = await called(db, caller, "call_1", "call_2")
        await accept(db, caller, child(parent, [output("call_2"), output("call_1")]))

    async def test_an_output_needs_a_call(self, db: Database, caller: Caller) -> None:
        parent = await said(db, caller, "Hi", "Hello")
        for draft in (child(None, [output("call_x")]), child(parent, [output("call_x")])):
            message = await self.refused(db, caller, draft)
            assert message == "No tool call found for function call output with call_id call_x."

    async def test_a_call_that_was_answered_long_ago_may_be_answered_again(
        self, db: Database, caller: Caller
    ) -> None:
        parent = await called(db, caller, "call_1")
        answered = await called(db, caller, input=[output("call_1")], previous_response_id=parent)
        later = await said(db, caller, "And?", "So.", answered)
        await accept(db, caller, child(later, [output("call_1")]))

    async def test_a_call_of_another_branch_is_not_known(self, db: Database, caller: Caller) -> None:
        root = await said(db, caller, "Hi", "Hello")
        other = await called(db, caller, "call_1", previous_response_id=root)
        branch = await said(db, caller, "Hm", "Yes", root)
        await accept(db, caller, child(other, [output("call_1")]))
        await self.refused(db, caller, child(branch, [output("call_1")]))

    async def test_a_call_may_come_with_its_output(self, db: Database, caller: Caller) -> None:
        replayed = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
        await accept(db, caller, child(None, [replayed, output("call_1")]))
        await self.refused(db, caller, child(None, [replayed]))


class TestDuplicates:
    """No id stands twice in one context (behaviour 26)."""

    async def refused(self, db: Database, caller: Caller, draft: Draft, item_id: str) -> None:
        with pytest.raises(InvalidRequest) as raised:
            await accept(db, caller, draft)
        assert raised.value.message.startswith(f"Duplicate item found with id {item_id}.")
        assert raised.value.param == "input"

    @staticmethod
    def message(item_id: str) -> dict[str, Any]:
        return {"type": "message", "role": "user", "id": item_id, "content": "x"}

    @pytest.mark.parametrize("has_parent", [False, True])
    async def test_within_the_new_input(self, db: Database, caller: Caller, *, has_parent: bool) -> None:
        parent = await said(db, caller, "Hi", "Hello") if has_parent else None
        draft = child(parent, [self.message("msg_1"), self.message("msg_2"), self.message("msg_1")])
        await self.refused(db, caller, draft, "msg_1")

    async def test_of_an_item_of_the_history(self, db: Database, caller: Caller) -> None:
        composer = await a_response(db, caller, params={"input": [self.message("msg_1")]})
        for item_id in ("msg_1", composer.output[0]["id"]):
            await self.refused(db, caller, child(name_of(composer), [self.message(item_id)]), item_id)

    async def test_of_an_item_that_is_also_referred_to(self, db: Database, caller: Caller) -> None:
        composer = await a_response(db, caller)
        item_id = composer.output[0]["id"]
        reference = {"type": "item_reference", "id": item_id}
        await self.refused(db, caller, child(name_of(composer), [reference]), item_id)
        await self.refused(db, caller, child(None, [reference, reference]), item_id)

    async def test_of_another_branch_is_none(self, db: Database, caller: Caller) -> None:
        await a_response(db, caller, params={"input": [self.message("msg_1")]})
        parent = await said(db, caller, "Hi", "Hello")
        await accept(db, caller, child(parent, [self.message("msg_1")]))

    @pytest.mark.parametrize("text", ['"id":"msg_1"', '{"id":"msg_1"}', '\\"id":"msg_1"', '","id":"msg_1"'])
    async def test_a_text_that_looks_like_one_is_none(self, db: Database, caller: Caller, text: str) -> None:
        parent = await said(db, caller, text, text)
        await accept(db, caller, child(parent, [self.message("msg_1")]))

    async def test_items_without_an_id_cannot_be_any(self, db: Database, caller: Caller) -> None:
        same = {"role": "user", "content": "x"}
        parent = name_of(await a_response(db, caller, params={"input": [same, same]}))
        await accept(db, caller, child(parent, [same, same]))


class TestReferences:
    async def test_an_item_of_any_stored_response_stands_in_the_place_of_its_id(
        self, db: Database, caller: Caller
    ) -> None:
        first, second = (
            await a_response(db, caller, *answer("One")),
            await a_response(db, caller, *answer("Two")),
        )
        wanted = [second.output[0], first._draft.input.items[0], first.output[0]]
        references = [{"type": "item_reference", "id": item["id"]} for item in wanted]
        accepted = await accept(db, caller, child(None, [{"role": "user", "content": "Look:"}, *references]))
        assert list(accepted.draft.input.items[1:]) == wanted
        assert orjson.loads(b"[" + accepted.draft.input.blob + b"]")[1:] == wanted

    async def test_a_bare_id_is_a_reference(self, db: Database, caller: Caller) -> None:
        composer = await a_response(db, caller)
        accepted = await accept(db, caller, child(None, [{"id": composer.output[0]["id"]}]))
        assert list(accepted.draft.input.items) == composer.output

    async def test_a_reference_may_stand_beside_a_parent(self, db: Database, caller: Caller) -> None:
        other = await a_response(db, caller)
        parent = await said(db, caller, "1?", "1!")
        accepted = await accept(db, caller, child(parent, [{"id": other.output[0]["id"]}]))
        assert texts(accepted) == ["1?", "1!"]
        assert list(accepted.draft.input.items) == other.output

    async def test_a_referred_call_is_a_call(self, db: Database, caller: Caller) -> None:
        composer = await a_response(db, caller, Started(), *call("call_1"), DONE)
        reference = {"type": "item_reference", "id": composer.output[0]["id"]}
        await accept(db, caller, child(None, [reference, output("call_1")]))
        with pytest.raises(InvalidRequest):
            await accept(db, caller, child(None, [reference]))

    async def test_what_cannot_be_found_is_told_in_the_same_words(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gone = await a_response(db, caller)
        await deleted(db, caller, name_of(gone))
        hidden = await a_response(db, caller, params={"store": False})
        foreign = await a_response(db, await a_caller(database_url))
        beyond = gone.output[0]["id"][:-4] + "00ff"
        kindless = "fc_" + (await a_response(db, caller)).output[0]["id"].removeprefix("msg_")
        names = [composer.output[0]["id"] for composer in (gone, hidden, foreign)]
        for name in (*names, beyond, kindless, "msg_ghost", "msg_" + "f" * 36):
            with pytest.raises(NotFound) as raised:
                await accept(db, caller, child(None, [{"type": "item_reference", "id": name}]))
            assert raised.value.message == (
                f"Item with id '{name}' not found. Items are not persisted when `store` is set to false. "
                "Try again with `store` set to true, or remove this item from your input."
            )
            assert (raised.value.status, raised.value.param) == (404, "input")


class TestUpstreamIds:
    """An upstream may have bound encrypted reasoning to its own ids, and only it knows them."""

    ITEMS = (
        ItemFinished(0, {"type": "reasoning", "id": 'rs_"odd"', "summary": [], "encrypted_content": "x=="}),
        ItemFinished(
            1, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]}
        ),
    )

    async def history(
        self, db: Database, caller: Caller, upstream: str
    ) -> tuple[Composer, list[dict[str, Any]]]:
        provider = ScriptedProvider([Started(), *self.ITEMS, DONE], name="first")
        composer = await a_response(db, caller, provider=provider)
        later = await said(db, caller, "2?", "2!", name_of(composer))
        accepted = await accept(db, caller, child(later))
        return composer, orjson.loads(b"[" + b",".join(accepted.items(upstream)[:-1]) + b"]")

    async def test_they_are_put_back_for_the_upstream_that_made_them(
        self, db: Database, caller: Caller
    ) -> None:
        composer, items = await self.history(db, caller, "first")
        assert items[1] == composer.output[0] | {"id": 'rs_"odd"'}
        assert items[2] == composer.output[1]

    async def test_another_upstream_is_given_ours(self, db: Database, caller: Caller) -> None:
        composer, items = await self.history(db, caller, "second")
        assert items[1:3] == composer.output
