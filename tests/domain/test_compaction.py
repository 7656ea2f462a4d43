"""What is kept, what is folded, and what is never parted."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import calls
from app.domain.compaction import (
    EMPTY,
    OPAQUE,
    TRIGGER,
    Memory,
    Plan,
    Unfolded,
    estimate,
    is_in,
    is_triggered,
    newest,
    not_keepable,
    plan,
    refuse_unknown_outputs,
    threshold,
    unfold,
)
from app.domain.items import join
from app.errors import InvalidRequest

Json = dict[str, Any]
ORDER: Json = {"type": TRIGGER, "id": "cmpt_1"}


def said(text: str, role: str = "user") -> Json:
    return {
        "id": f"msg_{text}",
        "type": "message",
        "role": role,
        "content": [{"type": "input_text", "text": text}],
    }


def answered(text: str) -> Json:
    return said(text, "assistant")


def call(name: str) -> Json:
    return {"id": f"fc_{name}", "type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}


def output(name: str) -> Json:
    return {"id": f"fco_{name}", "type": "function_call_output", "call_id": name, "output": "1"}


def thought(name: str) -> Json:
    return {"id": f"rs_{name}", "type": "reasoning", "summary": []}


def given_of(history: list[Json], new: list[Json], memory: Memory = EMPTY) -> Unfolded:
    return Unfolded(
        memory, history, [item for item in new if item["type"] != TRIGGER], is_triggered=is_triggered(new)
    )


def planned(
    history: list[Json], new: list[Json], memory: Memory = EMPTY, keep_tokens: int | None = None
) -> Plan:
    return plan(given_of(history, new, memory), keep_tokens=keep_tokens)


class TestKept:
    def test_users_word_by_word_and_the_rest_folded(self) -> None:
        made = planned([said("a"), answered("b"), said("c"), answered("d")], [ORDER])
        assert made.before == [said("a"), said("c")]
        assert made.after == []
        assert made.folded == [said("a"), answered("b"), said("c"), answered("d")]

    def test_the_new_input_follows_the_summary(self) -> None:
        made = planned([said("a"), answered("b")], [said("c")])
        assert made.memory("s").items[-1] == said("c")
        assert made.before == [said("a")]

    def test_open_calls_with_their_reasoning(self) -> None:
        history = [said("a"), thought("1"), call("1"), call("2"), output("1")]
        made = planned(history, [ORDER])
        assert made.after == [thought("1"), call("2")]
        assert made.memory("s").open_calls == {"2": "function_call"}

    def test_a_call_whose_output_is_the_new_input(self) -> None:
        history = [said("a"), thought("0"), call("0"), output("0"), thought("1"), call("1")]
        made = planned(history, [output("1")])
        assert made.after == [thought("1"), call("1"), output("1")]

    def test_a_request_for_approval_and_a_program_stay_open(self) -> None:
        approval = {"id": "mcpr_1", "type": "mcp_approval_request", "name": "x"}
        program = {"id": "prog_1", "type": "program", "call_id": "p1", "code": "x"}
        assert planned([said("a"), approval, program], [ORDER]).after == [approval, program]
        yes = {
            "id": "mcpa_1",
            "type": "mcp_approval_response",
            "approval_request_id": "mcpr_1",
            "approve": True,
        }
        assert planned([said("a"), approval], [yes]).after == [approval, yes]

    def test_so_much_of_older_messages_the_newest_first(self) -> None:
        history = [said("a" * 400), answered("b"), said("c" * 40), said("d" * 40), answered("e")]
        assert planned(history, [said("f")], keep_tokens=100).before == history[2:4]
        assert planned(history, [said("f")], keep_tokens=0).before == []

    def test_the_task_stays_however_long_it_is(self) -> None:
        """In the middle of a loop of calls the user's last message says what all of it is about."""
        history = [said("a" * 4000), call("1")]
        assert planned(history, [output("1")], keep_tokens=10).before == history[:1]
        assert planned(history, [output("1"), said("b")], keep_tokens=10).before == []

    def test_what_steers_the_model(self) -> None:
        tools: Json = {"id": "at_1", "type": "additional_tools", "role": "developer", "tools": []}
        rules = [said("r", "developer"), said("s", "system")]
        history = [
            rules[0],
            tools,
            said("a" * 4000),
            answered("b"),
            rules[1],
            {**rules[0], "id": "msg_again"},
        ]
        made = planned(history, [said("c")], keep_tokens=10)
        assert [item["type"] for item in made.before] == ["additional_tools", "message", "message"]
        assert [item["content"] for item in made.before[1:]] == [rules[1]["content"], rules[0]["content"]]
        assert tools not in made.folded

    def test_what_an_earlier_compaction_kept_is_looked_at_again(self) -> None:
        memory = Memory([said("a")], "earlier", [said("b"), call("1")])
        made = planned([output("1"), answered("c")], [said("d")], memory, keep_tokens=1000)
        assert (made.summary, made.before, made.after) == ("earlier", [said("a"), said("b")], [said("d")])


ITEMS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "call", "output", "thought"]), st.integers(0, 4)),
    max_size=30,
)


@given(
    drawn=ITEMS,
    new_at=st.integers(0, 30),
    is_ordered=st.booleans(),
    keep_tokens=st.sampled_from([None, 0, 50]),
)
def test_nothing_is_parted_nothing_open_is_lost_and_users_stay(
    drawn: list[tuple[str, int]], new_at: int, *, is_ordered: bool, keep_tokens: int | None
) -> None:
    items = sound(drawn)
    new = [*items[new_at:], *([ORDER] if is_ordered else [])]
    made = planned(items[:new_at], new, keep_tokens=keep_tokens)
    memory = made.memory("s")
    waiting, unexplained = calls.pair({}, memory.items)
    assert waiting == calls.pair({}, items)[0]
    assert not unexplained
    assert orjson.loads(b"[" + join(memory.after) + b"]") == [item for item in items if item in memory.after]
    if keep_tokens is None:
        assert [item for item in memory.items if item.get("role") == "user"] == [
            item for item in items if item.get("role") == "user"
        ]
    if not is_ordered:
        assert memory.after[len(memory.after) - len(items[new_at:]) :] == items[new_at:]


def sound(drawn: list[tuple[str, int]]) -> list[Json]:
    """Items in which every output follows its call and no call is answered or made twice."""
    items, made, done = list[Json](), set[int](), set[int]()
    for place, (kind, number) in enumerate(drawn):
        if kind == "user":
            items.append(said(str(place)))
        elif kind == "assistant":
            items.append(answered(str(place)))
        elif kind == "thought":
            items.append(thought(str(place)))
        elif kind == "call" and number not in made:
            made.add(number)
            items.append(call(str(number)))
        elif kind == "output" and number in made - done:
            done.add(number)
            items.append(output(str(number)))
    return items


class TestUnfolded:
    def test_what_stands_before_the_newest_is_gone(self) -> None:
        memories = {"1": Memory([], "one"), "2": Memory([said("k")], "two", [call("9")])}
        blobs = [
            join([said("a"), {"id": "1", "type": "compaction"}, answered("b")]),
            join([said("c"), {"id": "2", "type": "compaction"}, answered("d")]),
            join([output("9")]),
        ]
        given = unfold(blobs, lambda item: memories[item["id"]])
        texts = [item["id"] for item in given.items if "id" in item]
        assert texts == ["msg_k", "fc_9", "msg_d", "fco_9"]
        assert given.new == [output("9")]
        assert [item["id"] for item in given.messages] == ["msg_k"]

    def test_one_in_the_new_input_leaves_no_history(self) -> None:
        blobs = [join([said("a")]), join([said("b"), {"id": "1", "type": "compaction"}, said("c"), ORDER])]
        given = unfold(blobs, lambda _: Memory([], "one"))
        assert (given.history, given.new, given.is_triggered) == ([], [said("c")], True)

    def test_that_of_an_upstream_stays_itself_behind_the_messages(self) -> None:
        item = {"id": "1", "type": "compaction", "encrypted_content": "gAAA"}
        given = unfold([join([said("a"), answered("b"), item]), join([said("c")])], lambda _: OPAQUE)
        assert given.items == [said("a"), item, said("c")]

    def test_a_history_that_the_client_brings_is_one(self) -> None:
        brought = [said("a"), answered("b"), call("1"), output("1"), said("c")]
        given = unfold([join(brought)], lambda _: EMPTY)
        assert (given.history, given.new) == (brought[:3], brought[3:])
        assert plan(given, keep_tokens=None).folded == brought[:2]
        given = unfold([join([answered("x")]), join([said("a"), said("c")])], lambda _: EMPTY)
        assert given.new == [said("a"), said("c")]

    def test_an_order_of_long_ago_is_none(self) -> None:
        given = unfold([join([said("a"), ORDER, answered("b")]), join([said("c")])], lambda _: EMPTY)
        assert (given.items, given.is_triggered) == ([said("a"), answered("b"), said("c")], False)

    def test_nothing_is_nothing(self) -> None:
        assert unfold([], lambda _: EMPTY).items == unfold([b"", b""], lambda _: EMPTY).items == []

    def test_an_output_whose_call_was_summed_up_is_refused(self) -> None:
        with pytest.raises(
            InvalidRequest, match="No tool call found for function call output with call_id 1"
        ):
            refuse_unknown_outputs(given_of([], [output("1")], Memory([], "s")))


@pytest.mark.parametrize(
    ("wanted", "tokens"),
    [
        (None, None),
        ([{"type": "compaction", "compact_threshold": 3000}], 3000),
        ([{"type": "compaction"}], 7),
        ([{"type": "compaction", "compact_threshold": None}], 7),
        (
            [
                {"type": "compaction", "compact_threshold": 3000},
                {"type": "compaction", "compact_threshold": 2000},
            ],
            2000,
        ),
    ],
)
def test_the_least_threshold_counts(wanted: Any, tokens: int | None) -> None:
    assert threshold({"context_management": wanted}, 7) == tokens


def test_places_and_marks() -> None:
    item = {"type": "compaction"}
    assert newest([said("a"), item, item, said("b")]) == 2
    assert newest([]) is None
    assert is_in([said("a"), ORDER])
    assert not is_in([said("a")])
    assert estimate([said("a")]) > 0
    assert not_keepable().code == "context_length_exceeded"
