"""A turn as it is read: who spoke, what was called, and what that was answered."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ui import rendering, tool_items
from app.ui.entries import Entry, heading
from app.ui.pieces import Allowance
from app.ui.turns import Turn, gist, instructions, read, unpaired, whole

Json = dict[str, Any]


def said(role: str, *content: Any, **more: Any) -> Json:
    return {"type": "message", "id": f"msg_{role}", "role": role, "content": list(content), **more}


def text(words: str, kind: str = "input_text", **more: Any) -> Json:
    return {"type": kind, "text": words, **more}


def call(call_id: str = "call_1", **more: Any) -> Json:
    return {
        "type": "function_call",
        "id": "fc_1",
        "call_id": call_id,
        "name": "get_weather",
        "arguments": '{"city":"Oslo"}',
        "status": "completed",
        **more,
    }


def output(call_id: str = "call_1", value: Any = "-3") -> Json:
    return {"type": "function_call_output", "id": "fco_1", "call_id": call_id, "output": value}


def only(turn: Turn) -> Entry:
    (entry,) = [*turn.given, *turn.made]
    return entry


def shown(entry: Entry) -> list[tuple[str, str]]:
    return [(piece.kind, str(piece.html or piece.text).strip()) for piece in entry.pieces]


def test_a_message_is_markdown_under_its_role() -> None:
    turn = read([said("user", text("Hi *you*"))], [said("assistant", text("Hello", "output_text"))])
    assert [(entry.title, entry.role, shown(entry)) for entry in (*turn.given, *turn.made)] == [
        ("User", "user", [("prose", "<p>Hi <em>you</em></p>")]),
        ("Assistant", "assistant", [("prose", "<p>Hello</p>")]),
    ]


def test_what_a_text_cites_stands_below_it() -> None:
    cited = [
        {"type": "url_citation", "url": "https://x.example/a", "title": "A"},
        {"type": "url_citation", "url": "javascript:alert(1)", "title": "B"},
        {"type": "file_citation", "file_id": "file_1", "filename": "c.pdf"},
    ]
    entry = only(read([], [said("assistant", text("x", "output_text", annotations=cited))]))
    assert [(piece.kind, piece.text, piece.url) for piece in entry.pieces[1:]] == [
        ("link", "A", "https://x.example/a"),
        ("note", "Source: B", ""),
        ("note", "Source: c.pdf", ""),
    ]


PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        ({"type": "input_image", "image_url": PICTURE}, "image", ""),
        ({"type": "input_image", "image_url": "https://x.example/a.png"}, "link", "https://x.example/a.png"),
        ({"type": "input_image", "image_url": "data:image/svg+xml;base64,AAAA"}, "note", "not shown"),
        ({"type": "input_image", "image_url": "javascript:alert(1)"}, "note", "not shown"),
        ({"type": "input_image", "image_url": PICTURE + "A" * 3_000_000}, "note", "too large"),
        ({"type": "input_image", "file_id": "file_1"}, "note", "file_1"),
        ({"type": "input_file", "filename": "a.pdf", "file_data": "data:,x"}, "note", "a.pdf"),
        ({"type": "input_file", "file_url": "https://x.example/b.pdf"}, "link", "b.pdf"),
        ({"type": "refusal", "refusal": "No."}, "refusal", "No."),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}, "note", "Audio"),
        ({"type": "hologram", "depth": 3}, "folded", "depth"),
    ],
)
def test_parts(part: Json, kind: str, words: str) -> None:
    (piece,) = only(read([said("user", part)], [])).pieces
    assert piece.kind == kind
    assert words in piece.text


class TestCalls:
    def test_a_call_has_its_output_beside_it(self) -> None:
        entry = only(read([call(), output(value='{"celsius":-3}')], []))
        assert (entry.kind, entry.title, entry.name) == ("call", "Function call", "get_weather")
        assert shown(entry) == [("code", '{"city": "Oslo"}')]
        (answer,) = entry.answers
        assert (answer.whence, answer.pieces[0].text) == ("here", '{"celsius": -3}')
        assert not entry.is_open

    def test_its_output_may_be_in_the_next_turn(self) -> None:
        entry = only(read([], [call()], after=[said("user"), output()]))
        assert [answer.whence for answer in entry.answers] == ["later"]

    def test_its_call_may_be_in_the_turn_before(self) -> None:
        entry = only(read([output()], [], before=[call("call_2", name="other"), call()]))
        assert (entry.name, entry.whence) == ("get_weather", "earlier")
        assert [piece.text for answer in entry.answers for piece in answer.pieces] == ["-3"]

    def test_an_output_whose_call_is_nowhere_is_shown_alone(self) -> None:
        entry = only(read([output()], []))
        assert (entry.title, entry.pieces) == ("Function call output", ())
        assert entry.answers[0].pieces[0].text == "-3"

    def test_a_call_that_nobody_answered_says_so(self) -> None:
        assert only(read([], [call()])).is_open

    def test_parallel_calls_find_their_own(self) -> None:
        turn = read([], [call("a"), call("b")], after=[output("b", "B"), output("a", "A")])
        assert [entry.answers[0].pieces[0].text for entry in turn.made] == ["A", "B"]

    def test_a_local_shell_is_answered_by_its_id(self) -> None:
        asked = {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls", "-l"]}}
        entry = only(read([asked, {"type": "local_shell_call_output", "id": "c", "output": "x"}], []))
        assert shown(entry) == [("code", "ls -l")]
        assert entry.answers[0].pieces[0].text == "x"

    def test_which_other_turns_are_wanted(self) -> None:
        assert unpaired([call(), output()]) == (False, False)
        assert unpaired([output()]) == (True, False)
        assert unpaired([call()]) == (False, True)


ITEMS: list[tuple[Json, str]] = [
    ({"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "select 1"}, "select 1"),
    ({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls", "wc"]}}, "ls\nwc"),
    (
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "update_file", "path": "a.py", "diff": "+x"}},
        "+x",
    ),
    ({"type": "computer_call", "call_id": "c", "actions": [{"type": "click", "x": 1, "y": 2}]}, "click"),
    ({"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "ships"}}, "ships"),
    ({"type": "file_search_call", "id": "fs", "queries": ["a", "b"], "results": [{"filename": "f", "text": "found"}]}, "found"),
    ({"type": "code_interpreter_call", "id": "ci", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]}, "2"),
    ({"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}", "output": "out"}, "out"),
    ({"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}", "error": {"code": 7}}, "7"),
    ({"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": [{"name": "reader"}]}, "reader"),
    ({"type": "mcp_approval_response", "approval_request_id": "m", "approve": False, "reason": "why"}, "why"),
    ({"type": "image_generation_call", "id": "ig", "result": "iVBORw0KGgo=", "revised_prompt": "a ship"}, "a ship"),
    ({"type": "computer_call_output", "call_id": "c", "output": {"image_url": PICTURE}}, "Screenshot"),
    (
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "so", "stderr": "se", "outcome": {"exit_code": 2}}]},
        "exit 2",
    ),
    ({"type": "tool_search_output", "call_id": "c", "tools": [{"name": "finder"}]}, "finder"),
    ({"type": "program", "call_id": "c", "code": "return 1"}, "return 1"),
    ({"type": "program_output", "call_id": "c", "result": "one"}, "one"),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}]}, "thought"),
    ({"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, "encrypted"),
    ({"type": "compaction", "encrypted_content": "gAAA"}, "condensed"),
    ({"type": "agent_message", "author": "a", "recipient": "b", "content": [text("between us")]}, "between us"),
    ({"type": "brand_new_item", "secret_power": "flying"}, "flying"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "words"), ITEMS, ids=[f"{item['type']}-{words}" for item, words in ITEMS])
def test_every_kind_of_item_shows_what_it_says(item: Json, words: str) -> None:
    entry = only(read([item], []))
    pieces = [*entry.pieces, *(piece for answer in entry.answers for piece in answer.pieces)]
    assert any(words in f"{piece.text}{piece.label}{piece.html or ''}" for piece in pieces)
    assert "gAAA" not in str(pieces)


def test_what_is_not_completed_says_so() -> None:
    assert only(read([], [said("assistant", status="in_progress")])).status == "in progress"
    assert not only(read([], [said("assistant", status="completed")])).status


class TestAllowance:
    def test_a_long_text_is_cut_and_tells(self) -> None:
        entry = only(read([said("user", text("x" * 70_000))], []))
        assert entry.is_cut
        assert len(entry.pieces[0].html or "") < 51_000

    def test_beyond_so_much_markdown_texts_are_shown_as_they_were_written(self) -> None:
        turn = read([said("user", text("*x*" * 16_000)) for _ in range(5)], [])
        assert [entry.pieces[0].kind for entry in turn.given] == ["prose"] * 2 + ["plain"] * 3

    def test_a_large_turn_is_read_in_parts(self) -> None:
        items = [said("user", text(str(number))) for number in range(450)]
        first = read(items, [])
        assert (len(first.given), first.next_place) == (200, 200)
        last = read(items, [], first=400)
        assert (last.given[0].place, len(last.given), last.next_place) == (400, 50, None)

    def test_large_items_are_fewer_in_a_part(self) -> None:
        turn = read([said("user", text("x" * 60_000)) for _ in range(100)], [])
        assert turn.next_place == 20

    def test_one_item_alone_is_shown_as_it_was_written(self) -> None:
        (entry,) = whole([said("user", text("*x*" * 30_000))])
        assert (entry.pieces[0].kind, entry.is_cut) == ("plain", False)

    def test_a_call_alone_has_its_output_and_an_output_is_shown_if_it_is_asked_for(self) -> None:
        items = [call(), output(value="x" * 60_000)]
        (entry,) = whole(items, 0)
        assert (entry.name, len(entry.answers[0].pieces[0].text)) == ("get_weather", 60_000)
        (entry,) = whole(items, 1)
        assert entry.title == "Function call output"

    def test_pictures_are_bounded_together(self) -> None:
        picture = {"type": "input_image", "image_url": PICTURE + "A" * 1_900_000}
        entry = only(read([said("user", *[picture] * 5)], []))
        assert [piece.kind for piece in entry.pieces] == ["image"] * 3 + ["note"] * 2


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([said("user", text("one")), said("assistant", text("two"))], "two"),
        ([{"role": "user", "content": "plain\n words"}], "plain words"),
        ([said("user", {"type": "input_image"}, text("see"))], "see"),
        ([call(), output()], "1 tool output"),
        ([], ""),
        ([said("user", text("word " * 100))], "word " * 31 + "word…"),
    ],
)
def test_the_gist_of_an_input(items: list[Json], words: str) -> None:
    assert gist(items) == words


def test_instructions_are_a_text_or_items() -> None:
    for value in ("Be short.", [said("developer", text("Be short."))]):
        assert [str(piece.html) for piece in instructions(value, Allowance())] == ["<p>Be short.</p>\n"]
    assert instructions(None, Allowance()) == ()


ARTICLE: Any = rendering._TEMPLATES.get_template("_entries.html").module.article  # type: ignore[attr-defined]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(["{", "[1]", '{"a":', PICTURE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = ["id", "call_id", "status", "role", "content", "summary", "output", "action", "operation", "arguments",
          "name", "tools", "results", "outputs", "queries", "error", "result", "text", "server_label", "phase",
          "annotations", "image_url", "author"]  # fmt: skip
KINDS = sorted(
    {*tool_items.CALLS, *tool_items._ANSWERED, "message", "reasoning", "compaction", "agent_message", "x"}
)
ANY_ITEM = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(KINDS) | VALUES,
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY_ITEM, max_size=4), st.lists(ANY_ITEM, max_size=3))
def test_any_json_has_a_showing(given_items: list[Json], made: list[Json]) -> None:
    turn = read(given_items, made, before=made, after=given_items)
    for entry in (*turn.given, *turn.made):
        assert entry.title
        for piece in (*entry.pieces, *(piece for answer in entry.answers for piece in answer.pieces)):
            f"{piece.text}{piece.label}".encode()
            assert not piece.url or piece.url.startswith(("http", "mailto:", "data:image/"))
        str(ARTICLE(entry, "/all/", by_id=True)).encode()
    for item in (*given_items, *made):
        orjson.dumps(heading(item))
    unpaired([*given_items, *made])
    gist(given_items)
