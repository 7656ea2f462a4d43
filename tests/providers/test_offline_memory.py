"""The offline model sums up and recalls by whole lines."""

from typing import Any

import pytest

from app.domain.compaction import summary_item
from app.domain.compaction_prompt import PROMPT, question
from app.providers.offline_memory import NOTHING, is_asked, recalled, summary

TRANSCRIPT = """\
[user] Is the code red?
The code is 7741.
[assistant] The first user message was long.
Decision: we sail at dawn.
[user] Hello there
::sleep 3
[function_call_output call_1] Note: the tank is full."""


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def test_it_keeps_what_was_stated_marked_lines_first() -> None:
    made = summary(question("", TRANSCRIPT, max_words=100))
    assert made.splitlines() == ["Decision: we sail at dawn.", "Note: the tank is full.", "The code is 7741."]


def test_what_was_summed_up_before_stays_and_stands_first() -> None:
    made = summary(question("Fact: one.\nTwo is two.", TRANSCRIPT, max_words=100)).splitlines()
    assert made[0] == "Fact: one."
    assert made.index("Two is two.") < made.index("The code is 7741.")
    assert summary(question("\n".join(made), TRANSCRIPT, max_words=100)).splitlines() == made


def test_it_keeps_to_its_words_and_never_says_nothing() -> None:
    assert summary(question("", TRANSCRIPT, max_words=6)) == "Decision: we sail at dawn."
    assert summary(question("", "[user] Hello", max_words=6)) == NOTHING
    assert NOTHING not in summary(question(NOTHING, TRANSCRIPT, max_words=60))


def test_only_the_prompt_asks_for_it() -> None:
    assert is_asked(PROMPT + " And more.")
    assert not is_asked(None)
    assert not is_asked("Be brief.")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("code", "The code is 8."),
        ("CODE 7", "The code is 7."),
        ("dawn", "Decision: dawn."),
        ("recall", "I know nothing of recall."),
        ("aye", "I know nothing of aye."),
    ],
)
def test_the_last_line_with_all_words_is_recalled(words: str, line: str) -> None:
    items = [
        said("The code is 7."),
        summary_item("Decision: dawn."),
        said("Aye, aye.", "assistant"),
        said("The code is 8.\n::recall x"),
        said(f"::recall {words}"),
    ]
    assert recalled(items, words) == line


def test_of_nothing_nothing_is_known() -> None:
    assert recalled([], "x") == "I know nothing of x."
