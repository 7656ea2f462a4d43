from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.calls import CALLS
from app.domain.items import join, split
from app.domain.tokens import INLINE_TOKENS, estimate
from app.domain.truncation import Kept, budget, fit, too_long
from app.errors import InvalidRequest

Item = dict[str, Any]

ANYTHING = 10**9


def user(text: str = "x", role: str = "user") -> Item:
    content = [{"type": "input_text", "text": text}]
    return {"id": "msg_1", "type": "message", "role": role, "content": content}


def assistant(text: str = "x") -> Item:
    content = [{"type": "output_text", "text": text}]
    return {"id": "msg_2", "type": "message", "role": "assistant", "content": content}


def call(name: str, kind: str = "function_call") -> Item:
    return {"id": f"fc_{name}", "type": kind, "call_id": name}


def output(name: str, kind: str = "function_call_output") -> Item:
    return {"id": f"fco_{name}", "type": kind, "call_id": name, "output": "x"}


REASONING: Item = {"id": "rs_1", "type": "reasoning", "summary": []}


def kept_items(turns: Sequence[bytes], kept: Kept) -> list[Item]:
    """The history that is left."""
    blobs = [kept.head, *turns[kept.start + 1 :]]
    return [item for blob in blobs for item in split(blob)]


def tokens(*blobs: bytes) -> int:
    return sum(map(estimate, blobs))


def refusal(turns: Sequence[bytes], new_input: bytes, budget_tokens: int) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        fit(turns, new_input, budget_tokens)
    return caught.value


TURN = join([user("x" * 100), assistant("y" * 100)])
NEW = join([user("new")])


class TestWhatFits:
    def test_all_of_it_is_kept_untouched(self) -> None:
        turns = [TURN, b"", TURN]
        kept = fit(turns, NEW, tokens(*turns, NEW))
        assert kept.start == 0
        assert kept.head is turns[0]

    def test_nothing_is_read_of_it(self) -> None:
        assert fit([b"no JSON", b"at all"], b"either", ANYTHING) == Kept(0, b"no JSON")

    def test_no_history_is_nothing_kept(self) -> None:
        assert fit([], NEW, ANYTHING) == Kept(0, b"")

    def test_what_the_budget_does_not_reach_is_not_read(self) -> None:
        turns = [b"no JSON", TURN, TURN]
        assert fit(turns, NEW, tokens(TURN, NEW)) == Kept(2, TURN)


class TestWholeTurns:
    def test_one_token_too_many_costs_the_oldest_turn(self) -> None:
        turns = [TURN, TURN, TURN]
        kept = fit(turns, NEW, tokens(*turns, NEW) - 1)
        assert kept == Kept(1, TURN)
        assert kept.head is turns[1]

    def test_a_blob_of_several_turns_is_cut_between_them(self) -> None:
        old, second, third = [user("1"), assistant()], [user("2"), assistant()], [user("3"), assistant()]
        turns = [join(old + second + third), TURN]
        room = tokens(join(second + third), TURN, NEW)
        assert fit(turns, NEW, room) == Kept(0, join(second + third))
        assert fit(turns, NEW, room - 1) == Kept(0, join(third))

    @pytest.mark.parametrize("length", range(8))
    def test_a_part_of_a_blob_is_kept_to_its_last_byte(self, length: int) -> None:
        part = [user(), assistant("x" * length)]
        turns = [join([user(), assistant(), *part])]
        room = tokens(join(part), NEW)
        assert fit(turns, NEW, room) == Kept(0, join(part))
        assert fit(turns, NEW, room - 1) == Kept(1, b"")

    def test_input_messages_in_a_row_begin_one_turn(self) -> None:
        opening = [user("rules", "developer"), user("rules", "system"), user("question")]
        turns = [TURN, join([*opening, assistant()])]
        assert fit(turns, NEW, tokens(turns[1], NEW)) == Kept(1, turns[1])
        assert fit(turns, NEW, tokens(turns[1], NEW) - 1) == Kept(2, b"")

    def test_a_turn_may_begin_in_one_blob_and_end_in_another(self) -> None:
        turns = [TURN, join([user("x")]), join([user("y"), assistant()])]
        assert fit(turns, NEW, tokens(*turns[1:], NEW)) == Kept(1, turns[1])
        assert fit(turns, NEW, tokens(*turns[1:], NEW) - 1) == Kept(3, b"")

    def test_an_answer_is_not_kept_without_its_question(self) -> None:
        turns = [join([user("x" * 1000)]), join([assistant()]), TURN]
        assert fit(turns, NEW, tokens(*turns[1:], NEW)) == Kept(2, TURN)

    def test_messages_that_nobody_answered_do_not_hold_the_new_input_back(self) -> None:
        turns = [join([user("x" * 100)])] * 3
        assert fit(turns, NEW, tokens(NEW)) == Kept(3, b"")

    def test_the_new_input_may_go_on_without_a_message(self) -> None:
        new_input = join([assistant("so far:")])
        assert fit([TURN], new_input, tokens(new_input)) == Kept(1, b"")

    def test_empty_blobs_are_in_nobody_s_way(self) -> None:
        turns = [TURN, b"", TURN, b""]
        assert fit(turns, NEW, tokens(TURN, NEW)) == Kept(2, TURN)
        assert fit(turns, NEW, tokens(NEW)) == Kept(4, b"")

    def test_inline_data_count_as_they_are_estimated(self) -> None:
        picture = user()
        picture["content"].append(
            {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 10**5}
        )
        turns = [join([user("x" * 1000), assistant(), picture, assistant()])]
        assert fit(turns, NEW, INLINE_TOKENS + 200) == Kept(0, join([picture, assistant()]))
        assert fit(turns, NEW, INLINE_TOKENS) == Kept(1, b"")


class TestTies:
    @pytest.mark.parametrize("kind", CALLS)
    def test_a_call_that_is_answered_turns_later_goes_or_stays_with_its_output(self, kind: str) -> None:
        answer = output("c", CALLS[kind])
        turns = [join([user("1"), call("c", kind)]), join([user("2"), answer, assistant()]), TURN]
        assert fit(turns, NEW, tokens(*turns[1:], NEW)) == Kept(2, TURN)
        assert fit([TURN, *turns], NEW, tokens(*turns, NEW)) == Kept(1, turns[0])

    def test_an_output_that_appears_twice_holds_its_call_twice(self) -> None:
        turns = [
            join([user("1"), call("c"), output("c"), assistant()]),
            join([user("2"), output("c"), assistant()]),
            TURN,
        ]
        assert fit(turns, NEW, tokens(*turns[1:], NEW)) == Kept(2, TURN)

    def test_a_call_id_that_is_used_again_names_the_latest_call(self) -> None:
        turn = join([user(), call("call_0"), output("call_0"), assistant()])
        assert fit([turn] * 4, NEW, tokens(turn, turn, NEW)) == Kept(2, turn)

    def test_the_new_input_s_outputs_hold_the_history_from_their_call_on(self) -> None:
        turns = [TURN, join([user(), REASONING, call("c")])]
        answer = join([output("c")])
        assert fit(turns, answer, tokens(turns[1], answer)) == Kept(1, turns[1])
        assert refusal(turns, answer, tokens(turns[1], answer) - 1).code == "context_length_exceeded"

    def test_an_output_given_again_in_the_new_input_holds_everything_since_its_call(self) -> None:
        turns = [TURN, join([user(), call("c"), output("c"), assistant()]), TURN]
        again = join([user(), output("c")])
        assert fit(turns, again, tokens(*turns[1:], again)) == Kept(1, turns[1])
        assert refusal(turns, again, tokens(*turns[1:], again) - 1).code == "context_length_exceeded"

    def test_a_call_and_its_output_that_are_both_new_hold_nothing(self) -> None:
        both = join([user(), call("c"), output("c")])
        assert fit([TURN], both, tokens(both)) == Kept(1, b"")

    def test_reasoning_goes_or_stays_with_what_the_model_made_of_it(self) -> None:
        cut_off = join([user("x" * 100), REASONING])
        made = join([assistant()])
        assert refusal([cut_off], made, tokens(made)).code == "context_length_exceeded"
        assert fit([cut_off], NEW, tokens(NEW)) == Kept(1, b"")
        assert fit([cut_off, TURN], NEW, tokens(TURN, NEW)) == Kept(1, TURN)

    def test_a_program_goes_or_stays_with_the_output_that_it_has_turns_later(self) -> None:
        turns = [
            join([user(), call("p", "program"), call("c")]),
            join([output("c"), user("hurry"), output("p", "program_output"), assistant()]),
        ]
        assert fit(turns, NEW, tokens(*turns, NEW) - 1) == Kept(2, b"")

    def test_an_approval_holds_its_request(self) -> None:
        request = {"id": "mcpr_1", "type": "mcp_approval_request", "name": "n"}
        approval = join([{"id": "a", "type": "mcp_approval_response", "approval_request_id": "mcpr_1"}])
        turns = [TURN, join([user(), request])]
        assert fit(turns, approval, tokens(turns[1], approval)) == Kept(1, turns[1])
        assert refusal(turns, approval, tokens(approval)).code == "context_length_exceeded"

    def test_an_output_without_a_call_id_holds_nothing(self) -> None:
        named = {"id": "fco_1", "type": "function_call_output", "name": "f", "output": ""}
        turns = [TURN, join([user(), named, assistant()])]
        assert fit(turns, NEW, tokens(turns[1], NEW)) == Kept(1, turns[1])

    def test_a_local_shell_s_output_may_name_its_call_by_its_own_id(self) -> None:
        turns = [join([user(), call("c", "local_shell_call")])]
        answer = join([{"id": "c", "type": "local_shell_call_output", "output": ""}])
        assert refusal(turns, answer, tokens(answer)).code == "context_length_exceeded"


class TestRefusal:
    def test_it_is_in_openai_s_words(self) -> None:
        assert too_long().envelope()["error"] == {
            "message": "Your input exceeds the context window of this model. "
            "Please adjust your input and try again.",
            "type": "invalid_request_error",
            "param": "input",
            "code": "context_length_exceeded",
        }
        assert too_long().status == 400

    def test_a_new_input_that_does_not_fit_is_refused_whatever_the_history(self) -> None:
        for turns in ([], [TURN]):
            assert refusal(turns, NEW, tokens(NEW) - 1).message == too_long().message

    def test_nothing_at_all_does_not_fit_into_less_than_nothing(self) -> None:
        assert refusal([], b"", -1).code == "context_length_exceeded"

    def test_without_new_input_the_last_turn_has_to_fit(self) -> None:
        assert fit([TURN, TURN], b"", tokens(TURN)) == Kept(1, TURN)
        assert refusal([TURN, TURN], b"", tokens(TURN) - 1).code == "context_length_exceeded"


NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.text("xé", max_size=12)
ITEMS = st.one_of(
    st.builds(user, TEXTS, st.sampled_from(["user", "system", "developer"])),
    st.builds(user, TEXTS),
    st.builds(assistant, TEXTS),
    st.just(REASONING),
    st.builds(call, NAMES),
    st.builds(output, NAMES),
)
TURNS = st.lists(st.lists(ITEMS, max_size=5), max_size=6)


def is_input(item: Item) -> bool:
    return item["type"] == "message" and item["role"] != "assistant"


def calls_of_outputs(items: Sequence[Item]) -> list[tuple[int, int]]:
    """Where each output is, and where its call: -1 if nowhere before it."""
    pairs: list[tuple[int, int]] = []
    for place, item in enumerate(items):
        if item["type"] == "function_call_output":
            same = (i for i in range(place - 1, -1, -1) if items[i]["type"] == "function_call")
            pairs.append((place, next((i for i in same if items[i]["call_id"] == item["call_id"]), -1)))
    return pairs


def may_cut(history: Sequence[Item], new: Sequence[Item], place: int) -> bool:
    """Whether everything before this place may be dropped: the rules, one after the other."""
    items = [*history, *new]
    if place == 0:
        return True
    if place == len(items) or any(made < place <= at for at, made in calls_of_outputs(items)):
        return False
    before, after = items[place - 1], items[place]
    if before["type"] == "reasoning" and not is_input(after):
        return False
    return place == len(history) or (is_input(after) and not is_input(before))


def cost(turns: Sequence[Sequence[Item]], new: Sequence[Item], place: int) -> int:
    """The estimate of what is left by a cut at this place, blob by blob."""
    starts = accumulate(map(len, turns), initial=0)
    left = [turn[max(place - start, 0) :] for turn, start in zip(turns, starts, strict=False)]
    return tokens(*map(join, left), join(new))


@given(TURNS, st.lists(ITEMS, max_size=3), st.integers(0, 30), st.integers(-1, 20))
def test_as_much_is_kept_as_the_rules_and_the_budget_allow(
    turns: list[list[Item]], new: list[Item], fitting: int, spare: int
) -> None:
    history = [item for turn in turns for item in turn]
    blobs = [join(turn) for turn in turns]
    limit = cost(turns, new, min(fitting, len(history))) + spare
    wanted = next(
        (
            history[place:]
            for place in range(len(history) + 1)
            if cost(turns, new, place) <= limit and may_cut(history, new, place)
        ),
        None,
    )
    if wanted is None:
        assert refusal(blobs, join(new), limit).code == "context_length_exceeded"
    else:
        assert kept_items(blobs, fit(blobs, join(new), limit)) == wanted


@given(TURNS, st.lists(ITEMS, min_size=1, max_size=3), st.integers(0, 400))
def test_what_is_kept_fits_and_only_the_blob_that_is_cut_is_written_anew(
    turns: list[list[Item]], new: list[Item], limit: int
) -> None:
    blobs, new_input = [join(turn) for turn in turns], join(new)
    try:
        kept = fit(blobs, new_input, limit)
    except InvalidRequest:
        return
    assert tokens(kept.head, *blobs[kept.start + 1 :], new_input) <= limit
    if kept.start == len(blobs):
        assert kept.head == b""
    elif kept.head is not blobs[kept.start]:
        assert blobs[kept.start].endswith(b"," + kept.head)


def test_more_room_never_keeps_less() -> None:
    turns = [join([user("1"), call("c")]), join([user("2"), output("c"), user("3"), assistant()]), TURN, TURN]
    lengths = [len(kept_items(turns, fit(turns, NEW, limit))) for limit in range(tokens(NEW), 500)]
    assert all(less <= more for less, more in pairwise(lengths))
    assert (lengths[0], lengths[-1]) == (0, 10)


def test_each_blob_is_decoded_once_however_many_cuts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counted(blob: bytes) -> list[Item]:
        decoded.append(blob)
        return split(blob)

    monkeypatch.setattr("app.domain.truncation.split", counted)
    blob = join([user("1"), call("c"), *[user(), assistant()] * 500, output("c")])
    assert fit([blob, blob], NEW, tokens(NEW)) == Kept(2, b"")
    assert decoded == [blob, NEW]


@pytest.mark.parametrize(
    ("params", "left"),
    [
        ({}, 1000),
        ({"max_output_tokens": None}, 1000),
        ({"max_output_tokens": 300}, 700),
        ({"max_output_tokens": 128_000}, 500),
        ({"instructions": "x" * 38, "max_output_tokens": 300}, 690),
        ({"instructions": "x" * 4000}, -1),
    ],
)
def test_the_budget_is_the_window_without_the_request_and_room_for_output(
    params: dict[str, Any], left: int
) -> None:
    assert budget(1000, params) == left
