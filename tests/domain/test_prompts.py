"""Templates: what fills their places, and what does not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import prompts
from app.domain.prompts import Misplaced, Missing, TooLarge, Unknown, instructed, kept, places, render
from tests.prompting import message, user

IMAGE = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"}


def rendered(template: dict[str, Any], *, is_instructed: bool = False, **variables: Any) -> list[Any]:
    return render(kept(template), variables, is_instructed=is_instructed, max_bytes=1000)


def parts(template: dict[str, Any], **variables: Any) -> list[Any]:
    [only] = rendered(template, **variables)
    return only["content"]


def test_instructions_stand_first_as_a_developers() -> None:
    said = rendered(
        {"instructions": "Be {{how}}.", "messages": [user("Hi {{who}}!")]}, how="brief", who="you"
    )
    assert said == [message("developer", "Be brief."), message("user", "Hi you!")]


def test_the_requests_own_instructions_displace_the_templates() -> None:
    template = {"instructions": "Be {{how}}.", "messages": [user("Hi")]}
    assert rendered(template, is_instructed=True) == [message("user", "Hi")]
    # A variable whose only place is displaced was no mistake.
    assert rendered(template, is_instructed=True, how="brief") == [message("user", "Hi")]


@pytest.mark.parametrize("place", ["{{x}}", "{{ x }}", "{{\tx\n}}"])
def test_a_place_may_have_air(place: str) -> None:
    assert parts({"messages": [user(f"<{place}{place}>")]}, x="1") == [{"type": "input_text", "text": "<11>"}]


@pytest.mark.parametrize(
    "text", ["{x}", "{{}}", "{{ 1x }}", "{{x y}}", "{{#if x}}", "{{" + "x" * 65 + "}}", "{{x", "{{é}}"]
)
def test_what_only_looks_like_a_place_is_text(text: str) -> None:
    template = kept({"messages": [user(text)]})
    assert places(template) == ()
    assert rendered({"messages": [user(text)]}) == [message("user", text)]


def test_what_was_put_in_is_not_looked_at_again() -> None:
    assert parts({"messages": [user("{{a}}")]}, a="{{b}}") == [{"type": "input_text", "text": "{{b}}"}]


def test_a_part_cuts_the_text_in_which_it_stands() -> None:
    assert parts({"messages": [user("See {{it}}, and {{it}}!")]}, it=IMAGE) == [
        {"type": "input_text", "text": "See "}, IMAGE, {"type": "input_text", "text": ", and "}, IMAGE,
        {"type": "input_text", "text": "!"},
    ]  # fmt: skip
    assert parts({"messages": [user("{{it}}")]}, it=IMAGE) == [IMAGE]


def test_a_text_part_is_its_text() -> None:
    assert parts({"messages": [user("{{a}}{{b}}")]}, a="x", b={"type": "input_text", "text": "y"}) == [
        {"type": "input_text", "text": "xy"}
    ]


def test_an_image_says_how_closely_it_is_looked_at() -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    assert parts({"messages": [user("{{it}}")]}, it=image) == [{**image, "detail": "auto"}]


def test_what_else_a_text_says_goes_with_its_end() -> None:
    text = {"type": "input_text", "text": "{{it}} end", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert parts({"messages": [{"role": "user", "content": [text]}]}, it=IMAGE) == [
        IMAGE, {**text, "text": " end"},
    ]  # fmt: skip


def test_a_place_without_a_variable_and_a_variable_without_a_place_are_named() -> None:
    with pytest.raises(Missing) as missing:
        rendered({"messages": [user("{{a}} {{b}}")]}, a="x")
    assert missing.value.variable == "b"
    with pytest.raises(Unknown) as unknown:
        rendered({"messages": [user("{{a}}")]}, a="x", c="y")
    assert unknown.value.variable == "c"


def test_only_text_stands_in_what_the_assistant_has_said() -> None:
    template = {"messages": [{"role": "assistant", "content": "I said {{a}}."}]}
    assert rendered(template, a="no") == [message("assistant", "I said no.")]
    with pytest.raises(Misplaced):
        rendered(template, a=IMAGE)


def test_a_small_request_makes_nothing_huge() -> None:
    with pytest.raises(TooLarge):
        rendered({"messages": [user("{{a}}" * 100)]}, a="x" * 10)
    assert rendered({"messages": [user("{{a}}" * 80)]}, a="x" * 10)


def test_a_kept_template_has_no_nulls_and_its_messages_no_names() -> None:
    assert kept({"model": None, "temperature": 0, "messages": [{**user("x"), "type": None}]}) == {
        "temperature": 0,
        "messages": [message("user", "x")],
    }
    assert kept({"messages": []}) == {"messages": []}


def test_no_instructions_are_no_message() -> None:
    assert instructed(None) == instructed("") == []


@pytest.mark.parametrize("name", ["pmpt_1", "pmpt_" + "a" * 59, "pmpt_a-b_C"])
def test_what_a_prompt_can_be_called(name: str) -> None:
    assert prompts.is_id(name)


@pytest.mark.parametrize(
    "name", ["", "pmpt_", "pmpt_-", "pmpt_" + "a" * 60, "prompt_1", "pmpt_a\0", "pmpt_ü", "pmpt_a\n"]
)
def test_what_none_can_be_called(name: str) -> None:
    assert not prompts.is_id(name)


@given(st.text(), st.text(), st.text(alphabet="xy{} "))
def test_text_comes_out_as_it_was_put(before: str, value: str, after: str) -> None:
    """Whatever stands around a place, what was rendered is the text with the value in every place of it."""
    text = before + "{{v}}" + after
    [only] = render(
        kept({"messages": [user(text)]}),
        {"v": value} | dict.fromkeys(places(kept({"messages": [user(text)]})), value),
        is_instructed=False,
        max_bytes=10**6,
    )
    pieces = prompts._PLACE.split(text)[::2]
    assert only["content"][0]["text"] == value.join(pieces)
