"""What a connection remembers of responses that no store has, and what continues them."""

from typing import Any

import orjson
import pytest

from app import ids
from app.domain.remembered import Remembered
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation import engine
from app.generation.accept import Accepted
from app.generation.history import Terms
from app.generation.memory import Memory, remember
from app.generation.memory_budget import Budget
from app.providers.base import ItemFinished, ItemStarted, Started
from app.store.db import Database
from tests.builders import a_draft, a_run
from tests.scripted import DONE, ScriptedProvider, answer, call

UPSTREAM = "scripted"
THINKING = {"id": "rs_theirs", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}


def a_memory(name: str = "", *, size: int = 10) -> Remembered:
    draft = a_draft(input=name or "hi")
    return Remembered(draft.id, Status.COMPLETED, None, ((b"x" * size, None),), 1)


def name_of(remembered: Remembered) -> str:
    return ids.response_id(remembered.id)


async def turn(
    db: Database, caller: Caller, memory: Memory, *steps: Any, lane: str = "main", **params: Any
) -> tuple[str, Accepted]:
    """A turn on a connection with this memory; its id, and what it was accepted as."""
    provider, terms = ScriptedProvider(steps or answer(), db=db), Terms(recall=memory.recall)
    run = await a_run(db, caller, provider, a_draft(**params), terms=terms)
    composer = await engine.run(run)
    memory.keep(lane, remember(run.accepted, composer, UPSTREAM))
    return ids.response_id(run.accepted.draft.id), run.accepted


def sent(accepted: Accepted) -> list[dict[str, Any]]:
    """The items that the upstream is given."""
    return orjson.loads(b"[" + b",".join(blob for blob in accepted.items(UPSTREAM) if blob) + b"]")


class TestKeeping:
    def test_a_lane_has_one(self) -> None:
        memory, first, second = Memory(1000), a_memory(), a_memory()
        memory.keep("a", first)
        memory.keep("a", second)
        assert memory.recall(name_of(first)) is None
        assert memory.recall(name_of(second)) is second

    def test_what_the_store_has_takes_the_place(self) -> None:
        memory, first = Memory(1000), a_memory()
        memory.keep(None, first)
        memory.keep(None, None)
        assert memory.recall(name_of(first)) is None

    def test_it_is_evicted_from_its_own_lane_only(self) -> None:
        memory, first = Memory(1000), a_memory()
        memory.keep("a", first)
        for lane, name in (("b", name_of(first)), ("a", None), ("a", "resp_x"), ("a", name_of(a_memory()))):
            memory.evict(lane, name)
            assert memory.recall(name_of(first)) is first
        memory.evict("a", name_of(first))
        assert memory.recall(name_of(first)) is None

    def test_bytes_are_bounded_and_the_oldest_goes_first(self) -> None:
        memory, known = Memory(100), [a_memory(size=40) for _ in range(3)]
        for place, each in enumerate(known):
            memory.keep(str(place), each)
        assert [memory.recall(name_of(each)) for each in known] == [None, *known[1:]]
        memory.keep("huge", a_memory(size=101))
        assert not [each for each in known if memory.recall(name_of(each))]

    def test_many_are_bounded_together(self) -> None:
        shared = Budget(100)
        memories = [Memory(80, shared) for _ in range(3)]
        known = [a_memory(size=40) for _ in range(3)]
        for memory, each in zip(memories, known, strict=True):
            memory.keep(None, each)
        recalled = [memory.recall(name_of(each)) for memory, each in zip(memories, known, strict=True)]
        assert recalled == [None, *known[1:]]
        # What is too large for its own memory costs the others nothing.
        memories[0].keep("a", a_memory(size=90))
        assert memories[1].recall(name_of(known[1]))

    def test_whoever_has_most_gives_way(self) -> None:
        """One tenant's many do not push out another's one, though it is the oldest."""
        shared, known = Budget(100), [a_memory(size=30) for _ in range(6)]
        memories = [Memory(100, shared, tenant_id=int(place > 0)) for place in range(6)]
        for memory, each in zip(memories, known, strict=True):
            memory.keep(None, each)
        recalled = [memory.recall(name_of(each)) for memory, each in zip(memories, known, strict=True)]
        assert recalled == [known[0], None, None, None, *known[4:]]

    def test_what_is_closed_or_evicted_leaves_room(self) -> None:
        shared, known = Budget(100), [a_memory(size=50) for _ in range(4)]
        first, second, third = (Memory(100, shared) for _ in range(3))
        first.keep(None, known[0])
        second.keep(None, known[1])
        first.close()
        third.keep("a", known[2])
        third.evict("a", name_of(known[2]))
        third.keep("b", known[3])
        assert second.recall(name_of(known[1]))
        assert third.recall(name_of(known[3]))
        assert first.recall(name_of(known[0])) is None

    @pytest.mark.parametrize("name", ["", "resp_", "resp_x", "x", "resp_" + "0" * 32])
    def test_nonsense_is_not_found(self, name: str) -> None:
        memory = Memory(1000)
        assert memory.recall(name) is None
        memory.keep(None, a_memory())
        assert memory.recall(name) is None


class TestCompacted:
    """A compaction item stands for all before it, so that is not remembered any more."""

    COMPACTING = (
        Started(),
        ItemStarted(0, {"type": "compaction", "encrypted_content": ""}),
        ItemFinished(0, {"type": "compaction", "encrypted_content": "x" * 100}),
        DONE,
    )

    async def test_a_chain_is_no_longer_than_from_its_item_on(self, db: Database, caller: Caller) -> None:
        memory, parent = Memory(4_000), None
        for _ in range(8):
            state: dict[str, Any] = {"input": "x" * 900, "store": False}
            parent, _ = await turn(db, caller, memory, previous_response_id=parent, **state)
            parent, _ = await turn(db, caller, memory, *self.COMPACTING, previous_response_id=parent, **state)
        _, accepted = await turn(db, caller, memory, input="on", store=False, previous_response_id=parent)
        assert [item["type"] for item in sent(accepted)] == ["message", "compaction", "message"]

    async def test_the_place_in_the_store_is_kept(self, db: Database, caller: Caller) -> None:
        memory = Memory(1_500)
        root, _ = await turn(db, caller, memory, input="x" * 2_000)
        first, _ = await turn(
            db, caller, memory, *self.COMPACTING, input="a", store=False, previous_response_id=root
        )
        _, accepted = await turn(db, caller, memory, input="on", previous_response_id=first)
        assert (accepted.parent, accepted.place.seq) == (ids.parse_response_id(root), 1)
        assert [item["type"] for item in sent(accepted)] == ["message", "compaction", "message"]

    async def test_a_request_for_approval_keeps_its_upstream_id(self, db: Database, caller: Caller) -> None:
        memory = Memory(10**6)
        asked = {"id": "mcpr_theirs", "type": "mcp_approval_request", "server_label": "s", "name": "f"}
        asking = (Started(), ItemFinished(0, {**asked, "arguments": "{}"}), DONE)
        parent, _ = await turn(db, caller, memory, *asking, store=False)
        latest = memory.recall(parent)
        assert latest
        name = next(item["id"] for item in latest.items if item["type"] == "mcp_approval_request")
        for is_stored in (False, True):
            parent, _ = await turn(
                db, caller, memory, *self.COMPACTING, store=False, previous_response_id=parent
            )
            approval = {"type": "mcp_approval_response", "approval_request_id": name, "approve": True}
            _, accepted = await turn(
                db, caller, memory, lane="b", input=[approval], store=is_stored, previous_response_id=parent
            )
            assert sent(accepted)[-1]["approval_request_id"] == "mcpr_theirs"


class TestContinuing:
    async def test_a_chain_of_unstored_turns_is_sent_whole(self, db: Database, caller: Caller) -> None:
        memory, parent, count = Memory(10**6), None, 0
        for count in range(1, 5):
            parent, accepted = await turn(
                db, caller, memory, input=f"turn {count}", store=False, previous_response_id=parent
            )
            assert len(sent(accepted)) == 2 * count - 1
        assert count == 4

    async def test_it_is_found_by_whoever_has_the_memory(self, db: Database, caller: Caller) -> None:
        name, _ = await turn(db, caller, Memory(10**6), store=False)
        with pytest.raises(InvalidRequest, match="not found"):
            await turn(db, caller, Memory(10**6), previous_response_id=name)

    async def test_ids_of_the_upstream_are_put_back(self, db: Database, caller: Caller) -> None:
        """In a turn that nobody stores, in one that takes the items in, and in whatever continues that."""
        memory = Memory(10**6)
        thought = (Started(), ItemFinished(0, THINKING), DONE)
        first, _ = await turn(db, caller, memory, *thought, store=False)
        _, unstored = await turn(
            db, caller, memory, lane="other", input="a", store=False, previous_response_id=first
        )
        stored, taken_in = await turn(db, caller, memory, input="b", previous_response_id=first)
        _, later = await turn(db, caller, Memory(0), input="c", previous_response_id=stored)
        for accepted in (unstored, taken_in, later):
            assert [item["id"] for item in sent(accepted) if item["type"] == "reasoning"] == ["rs_theirs"]

    async def test_calls_stay_open(self, db: Database, caller: Caller) -> None:
        memory = Memory(10**6)
        first, _ = await turn(db, caller, memory, Started(), *call("call_1"), DONE, store=False)
        for is_stored in (False, True):
            with pytest.raises(InvalidRequest, match="No tool output found for function call call_1"):
                await turn(db, caller, memory, input="x", store=is_stored, previous_response_id=first)
        output = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
        for is_stored in (False, True):
            _, accepted = await turn(
                db,
                caller,
                memory,
                lane=str(is_stored),
                input=[output],
                store=is_stored,
                previous_response_id=first,
            )
            kinds = [item["type"] for item in sent(accepted)]
            assert kinds == ["message", "function_call", "function_call_output"]

    async def test_a_stored_root_is_not_copied(self, db: Database, caller: Caller) -> None:
        memory = Memory(10**6)
        root, _ = await turn(db, caller, memory, input="root")
        first, _ = await turn(db, caller, memory, input="one", store=False, previous_response_id=root)
        _, accepted = await turn(db, caller, memory, input="two", previous_response_id=first)
        assert accepted.parent == ids.parse_response_id(root)
        assert len(accepted.draft.input.items) == 3
        assert len(sent(accepted)) == 5

    async def test_estimates_count_each_item_once(self, db: Database, caller: Caller) -> None:
        memory = Memory(10**6)
        first, _ = await turn(db, caller, memory, input="x" * 400, store=False)
        _, unstored = await turn(
            db, caller, memory, lane="b", input="y", store=False, previous_response_id=first
        )
        _, stored = await turn(db, caller, memory, lane="c", input="y", previous_response_id=first)
        assert abs(unstored.context_tokens - stored.context_tokens) <= 2
