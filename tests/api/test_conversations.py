"""Conversations: made, read, described, listed, deleted; what is refused of them."""

import time
from typing import Any

import httpx2
import pytest

from app import ids
from tests.api.asking import CREATE, create, invalid, refusal
from tests.api.conversing import (
    CONVERSATIONS,
    NO_ITEM,
    NOBODY,
    add,
    begin,
    hold,
    items_of,
    path_of,
    said,
    texts_of,
)

ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"metadata": None}),
    ("DELETE", "", None),
    ("POST", "/fork", None),
    ("POST", "/items", {"items": [said("x")]}),
    ("GET", "/items", None),
    ("GET", f"/items/{NO_ITEM}", None),
    ("DELETE", f"/items/{NO_ITEM}", None),
]
by_id = pytest.mark.parametrize(("method", "tail", "body"), ROUTES)
LONG = "x" * 513


def absent(name: str) -> Any:
    return invalid(f"Conversation with id '{name}' not found.", code=None, param=None, status=404)


def wrong_prefix(param: str, name: str) -> Any:
    return invalid(f"Invalid '{param}': '{name}'. Expected an ID that begins with 'conv'.", param=param)


class TestCreate:
    @pytest.mark.parametrize("body", [b"", b"{}", b'{"items":null,"metadata":null}', b'{"items":[]}'])
    def test_nothing_has_to_be_said(self, api: httpx2.Client, body: bytes) -> None:
        answer = api.post(CONVERSATIONS, content=body)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        assert made == {
            "id": made["id"],
            "object": "conversation",
            "created_at": made["created_at"],
            "metadata": {},
        }
        assert ids.parse_conversation_id(made["id"])
        assert abs(made["created_at"] - time.time()) < 60
        assert api.get(f"{CONVERSATIONS}/{made['id']}").json() == made
        assert items_of(api, made["id"]) == []

    def test_it_begins_with_up_to_20_items_in_their_order(self, api: httpx2.Client) -> None:
        words = [f"number {number}" for number in range(20)]
        assert texts_of(api, begin(api, *words)) == words

    def test_the_bounds_of_metadata_are_inclusive(self, api: httpx2.Client) -> None:
        metadata = {f"{number:064}": "ü" * 512 for number in range(16)} | {f"{15:064}": ""}
        assert api.get(f"{CONVERSATIONS}/{begin(api, metadata=metadata)}").json()["metadata"] == metadata

    @pytest.mark.parametrize("text", ["\u0001\ufffd \U0001f600", "\\u0000", '"}', "\u2028"])
    def test_metadata_is_kept_to_the_letter(self, api: httpx2.Client, text: str) -> None:
        name = begin(api, metadata={text: text})
        assert api.get(f"{CONVERSATIONS}/{name}").json()["metadata"] == {text: text}

    def test_two_items_cannot_have_one_id(self, api: httpx2.Client) -> None:
        answer = api.post(CONVERSATIONS, json={"items": [said("x", id="msg_1"), said("y", id="msg_1")]})
        told = refusal(answer)
        assert (told.status, told.code, told.param) == (400, None, "items")
        assert told.message.startswith("Duplicate item found with id msg_1. ")


class TestRefusals:
    """The same words as of a create, with the name of the field (surface notes §2.3)."""

    @pytest.mark.parametrize(
        ("body", "code", "param", "message"),
        [
            ({"metadata": []}, "invalid_type", "metadata", "Invalid type for 'metadata': expected a metadata object, but got an array instead."),
            ({"metadata": {"a": 1}}, "invalid_type", "metadata.a", "Invalid type for 'metadata.a': expected a string, but got an integer instead."),
            ({"metadata": {"a": LONG}}, "string_above_max_length", "metadata.a", "Invalid 'metadata.a': string too long. Expected a string with maximum length 512, but got a string with length 513 instead."),
            ({"metadata": {"k" * 65: ""}}, "property_name_above_max_length", f"metadata.{'k' * 65}", "Invalid property name in 'metadata': 'kkk...kkk' is too long. Expected a string with maximum length 64, but got a string with length 65 instead."),
            ({"metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata", "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with 17 properties instead."),
            ({"metadata": {"a": "\0"}}, "invalid_value", "metadata.a", "Invalid 'metadata.a': NUL characters are not supported."),
            ({"metadata": {"a\0": "b"}}, "invalid_value", "metadata.a\\u0000", "Invalid 'metadata.a\\u0000': NUL characters are not supported."),
            ({"metadata": None, "metadatum": {}}, "unknown_parameter", "metadatum", "Unknown parameter: 'metadatum'."),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("tail", ["", "/{id}", "/{id}/fork"])
    def test_metadata(
        self, api: httpx2.Client, tail: str, body: Any, code: str, param: str, message: str
    ) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        assert refusal(api.post(path, json=body)) == invalid(message, code=code, param=param)

    @pytest.mark.parametrize(
        ("items", "code", "param", "message"),
        [
            ("x", "invalid_type", "items", "Invalid type for 'items': expected an array of objects, but got a string instead."),
            ([said("x")] * 21, "array_above_max_length", "items", "Invalid 'items': array too long. Expected an array with maximum length 20, but got an array with length 21 instead."),
            ([said("x"), 1], "invalid_type", "items[1]", "Invalid type for 'items[1]': expected an input item, but got an integer instead."),
            ([{"role": "user"}], "missing_required_parameter", "items[0].content", "Missing required parameter: 'items[0].content'."),
            ([{}], "invalid_value", "items[0]", "Invalid value: ''. Supported values are: 'assistant', 'system', 'developer', and 'user'."),
            ([said("x", id="fc_1")], "invalid_value", "items[0].id", "Invalid 'items[0].id': 'fc_1'. Expected an ID that begins with 'msg'."),
            ([said("x", id="msg_\0")], "invalid_value", "items[0].id", "Invalid 'items[0].id': 'msg_\0'. Expected an ID that contains letters, numbers, underscores, or dashes, but this value contained additional characters."),
            ([said("x", id="msg_" + "x" * 61)], "string_above_max_length", "items[0].id", "Invalid 'items[0].id': string too long. Expected a string with maximum length 64, but got a string with length 65 instead."),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("tail", ["", "/{id}/items"])
    def test_items(
        self, api: httpx2.Client, tail: str, items: Any, code: str, param: str, message: str
    ) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        assert refusal(api.post(path, json={"items": items})) == invalid(message, code=code, param=param)

    @pytest.mark.parametrize("tail", ["", "/{id}/items"])
    @pytest.mark.parametrize(
        "item",
        [
            {"type": "item_reference", "id": "msg_1"},
            {"id": "msg_1"},
            {"type": None, "id": "msg_1"},
            {"type": "compaction_trigger"},
        ],
    )
    def test_what_only_points_at_items_is_refused_by_name(
        self, api: httpx2.Client, tail: str, item: dict[str, Any]
    ) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        told = refusal(api.post(path, json={"items": [said("x"), item]}))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "items[1]")
        named, _, supported = told.message.partition(". Supported values are: ")
        assert named == f"Invalid value: '{item.get('type') or 'item_reference'}'"
        assert "'message'" in supported
        assert "item_reference" not in supported
        assert "compaction_trigger" not in supported

    @pytest.mark.parametrize("tail", ["", "/{id}/items"])
    def test_a_secret_is_refused_at_its_place(self, api: httpx2.Client, tail: str) -> None:
        tool = {"type": "mcp", "server_label": "x", "server_url": "https://x", "authorization": "secret"}
        item = {"type": "additional_tools", "role": "developer", "tools": [tool]}
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        told = refusal(api.post(path, json={"items": [item]}))
        assert (told.status, told.code) == (400, "unsupported_parameter")
        assert told.param == "items[0].tools[0].authorization"

    @pytest.mark.parametrize(
        ("tail", "body", "code", "param"),
        [
            ("", {"itms": []}, "unknown_parameter", "itms"),
            ("/{id}", {}, "missing_required_parameter", "metadata"),
            ("/{id}", None, "missing_required_parameter", "metadata"),
            ("/{id}", {"metadata": {}, "items": []}, "unknown_parameter", "items"),
            ("/{id}/items", {}, "missing_required_parameter", "items"),
            ("/{id}/items", {"items": None}, "invalid_type", "items"),
            ("/{id}/items", {"items": []}, "empty_array", "items"),
            ("/{id}/items", {"items": [], "metadata": {}}, "unknown_parameter", "metadata"),
            ("/{id}/fork", {"item_id": 1}, "invalid_type", "item_id"),
            ("/{id}/fork", {"item_id": "msg_\0"}, "invalid_value", "item_id"),
            ("/{id}/fork", {"item_id": ""}, "invalid_value", "item_id"),
            ("/{id}/fork", {"itemid": "x"}, "unknown_parameter", "itemid"),
        ],
    )
    def test_whole_bodies(self, api: httpx2.Client, tail: str, body: Any, code: str, param: str) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        told = refusal(api.post(path, json=body) if body is not None else api.post(path))
        assert (told.status, told.code, told.param) == (400, code, param)

    def test_what_may_have_been_meant_is_said(self, api: httpx2.Client) -> None:
        told = refusal(api.post(CONVERSATIONS, json={"itms": []}))
        assert told.message == "Unknown parameter: 'itms'. Did you mean 'items'?"

    @pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"metadata":{"a":"\\ud800"}}', b"\xff"])
    @pytest.mark.parametrize("tail", ["", "/{id}", "/{id}/items", "/{id}/fork"])
    def test_no_object_no_service(self, api: httpx2.Client, tail: str, body: bytes) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(api))
        assert refusal(api.post(path, content=body)).status == 400

    @pytest.mark.parametrize("tail", ["", "/{id}", "/{id}/items", "/{id}/fork"])
    def test_a_body_may_not_be_endless(self, terse: httpx2.Client, tail: str) -> None:
        path = CONVERSATIONS + tail.replace("{id}", begin(terse))
        assert refusal(terse.post(path, json={"metadata": {"a": "x" * 2000}})).status == 413


class TestMetadata:
    def test_it_is_replaced_as_a_whole(self, api: httpx2.Client) -> None:
        name = begin(api, "hi", metadata={"a": "1", "b": "2"})
        path = f"{CONVERSATIONS}/{name}"
        before = api.get(path).json()
        updated = api.post(path, json={"metadata": {"b": "3"}}).json()
        assert updated == {**before, "metadata": {"b": "3"}}
        assert api.get(path).json() == updated
        assert texts_of(api, name) == ["hi"]

    @pytest.mark.parametrize("nothing", [None, {}])
    def test_null_empties_it(self, api: httpx2.Client, nothing: Any) -> None:
        name = begin(api, metadata={"a": "1"})
        assert api.post(f"{CONVERSATIONS}/{name}", json={"metadata": nothing}).json()["metadata"] == {}


class TestDelete:
    def test_what_is_deleted_is_gone(self, api: httpx2.Client) -> None:
        name = begin(api, "hi", metadata={"deleted": "yes"})
        (item,) = items_of(api, name)
        path = f"{CONVERSATIONS}/{name}"
        assert api.delete(path).json() == {"id": name, "object": "conversation.deleted", "deleted": True}
        for method, tail, body in [*ROUTES, ("GET", f"/items/{item['id']}", None)]:
            answer = api.request(method, path + tail, json=body)
            assert refusal(answer) == absent(name)
        answer = api.post(CREATE, json={"model": "offline", "input": "x", "conversation": name})
        assert refusal(answer) == absent(name)
        assert api.get(CONVERSATIONS, params={"metadata[deleted]": "yes"}).json()["data"] == []

    def test_responses_that_were_made_in_it_stay(self, api: httpx2.Client) -> None:
        name = begin(api)
        response = create(api, "hi", conversation=name)
        api.delete(f"{CONVERSATIONS}/{name}")
        assert api.get(f"{CREATE}/{response['id']}").json() == response


class TestIds:
    @by_id
    @pytest.mark.parametrize(
        "name", [NOBODY, "conv_zzz", "conv_", "conv_" + "A" * 32, "conv_" + "0" * 33, "convx", "conv_%00"]
    )
    def test_an_id_of_nothing_is_not_found(
        self, api: httpx2.Client, method: str, tail: str, body: Any, name: str
    ) -> None:
        answer = api.request(method, f"{CONVERSATIONS}/{name}{tail}", json=body)
        assert refusal(answer) == absent(name.replace("%00", "\0"))

    @by_id
    @pytest.mark.parametrize("name", ["resp_" + "0" * 32, "x", "CONV_" + "0" * 32])
    def test_an_id_of_another_kind_is_a_bad_request(
        self, api: httpx2.Client, method: str, tail: str, body: Any, name: str
    ) -> None:
        answer = api.request(method, f"{CONVERSATIONS}/{name}{tail}", json=body)
        assert refusal(answer) == wrong_prefix("conversation_id", name)

    def test_a_turn_of_items_is_no_response(self, api: httpx2.Client) -> None:
        (item,) = items_of(api, begin(api, "hi"))
        found = ids.parse_item_id(item["id"])
        assert found
        name = ids.response_id(found[0])
        assert api.get(f"{CREATE}/{name}").status_code == 404
        assert api.delete(f"{CREATE}/{name}").status_code == 404
        assert api.post(f"{CREATE}/{name}/cancel").status_code == 404
        answer = api.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": name})
        assert refusal(answer).code == "previous_response_not_found"
        assert name not in [row["id"] for row in api.get(CREATE).json()["data"]]


class TestList:
    @pytest.fixture
    def five(self, api: httpx2.Client) -> list[str]:
        """The newest conversations that there are, oldest first."""
        return [begin(api) for _ in range(5)]

    def listed(self, api: httpx2.Client, **query: Any) -> dict[str, Any]:
        answer = api.get(CONVERSATIONS, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def names(self, api: httpx2.Client, **query: Any) -> list[str]:
        return [row["id"] for row in self.listed(api, **query)["data"]]

    def test_the_newest_come_first(self, api: httpx2.Client, five: list[str]) -> None:
        page = self.listed(api, limit=5)
        assert [row["id"] for row in page["data"]] == five[::-1]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", five[-1], five[0])

    def test_rows_are_what_is_read_one_by_one(self, api: httpx2.Client) -> None:
        name = begin(api, "hi", metadata={"a": "b"})
        assert self.listed(api, limit=1)["data"] == [api.get(f"{CONVERSATIONS}/{name}").json()]

    def test_pages_follow_each_other_in_both_directions(self, api: httpx2.Client, five: list[str]) -> None:
        assert self.names(api, after=five[4], limit=2) == five[3:1:-1]
        assert self.names(api, after=five[2], limit=2) == five[1::-1]
        assert self.names(api, after=five[0], order="asc", limit=2) == five[1:3]
        last = self.listed(api, after=five[2], order="asc", limit=2)
        assert ([row["id"] for row in last["data"]], last["has_more"]) == (five[3:], False)
        assert self.listed(api, after=five[2], order="asc", limit=1)["has_more"] is True

    def test_pages_neither_skip_nor_repeat_while_others_begin(
        self, api: httpx2.Client, five: list[str]
    ) -> None:
        found, after = list[str](), five[4]
        for _ in range(2):
            begin(api)
            found += self.names(api, after=after, limit=2)
            after = found[-1]
        assert found == five[3::-1]

    def test_a_page_after_the_end_is_empty(self, api: httpx2.Client, five: list[str]) -> None:
        page = self.listed(api, after=five[-1], order="asc")
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    def test_a_deleted_conversation_still_serves_as_a_cursor(
        self, api: httpx2.Client, five: list[str]
    ) -> None:
        api.delete(f"{CONVERSATIONS}/{five[2]}")
        assert self.names(api, after=five[2], limit=1) == [five[1]]
        assert five[2] not in self.names(api, limit=5)

    def test_it_can_be_of_those_with_some_metadata(self, api: httpx2.Client) -> None:
        key = ids.new_uuid().hex
        both = begin(api, metadata={key: "x", "b ü&[]=": "1", "c": "3"})
        one = begin(api, metadata={key: "x"})
        begin(api, metadata={key: "y"})
        assert self.names(api, **{f"metadata[{key}]": "x"}) == [one, both]
        assert self.names(api, order="asc", **{f"metadata[{key}]": "x"}) == [both, one]
        assert self.names(api, **{f"metadata[{key}]": "x", "metadata[b ü&[]=]": "1"}) == [both]
        assert self.names(api, **{f"metadata[{key}]": "x", "metadata[c]": "1"}) == []
        assert self.names(api, **{f"metadata[{key}]": ""}) == []
        first = self.listed(api, limit=1, **{f"metadata[{key}]": "x"})
        assert first["has_more"] is True
        rest = self.listed(api, limit=1, after=first["last_id"], **{f"metadata[{key}]": "x"})
        assert (rest["first_id"], rest["has_more"]) == (both, False)

    def test_a_new_value_is_found_and_the_old_one_is_not(self, api: httpx2.Client) -> None:
        key = ids.new_uuid().hex
        name = begin(api, metadata={key: "old"})
        api.post(f"{CONVERSATIONS}/{name}", json={"metadata": {key: "new"}})
        assert self.names(api, **{f"metadata[{key}]": "old"}) == []
        assert self.names(api, **{f"metadata[{key}]": "new"}) == [name]

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ([("metadata[a]", "\0")], "metadata[a]"),
            ([("metadata[a\0]", "x")], "metadata[a\\u0000]"),
            ([("metadata[a]", "x"), ("metadata[a]", "y")], "metadata[a]"),
        ],
    )
    def test_a_filter_that_nothing_can_pass_is_refused(
        self, api: httpx2.Client, query: Any, param: str
    ) -> None:
        told = refusal(api.get(CONVERSATIONS, params=query))
        assert (told.status, told.code, told.param) == (400, "invalid_value", param)

    @pytest.mark.parametrize("after", ["msg_1", ""])
    def test_a_bad_cursor_is_refused(self, api: httpx2.Client, after: str) -> None:
        assert refusal(api.get(CONVERSATIONS, params={"after": after})) == wrong_prefix("after", after)

    def test_a_cursor_that_no_conversation_can_have_is_refused(self, api: httpx2.Client) -> None:
        told = refusal(api.get(CONVERSATIONS, params={"after": "conv_zzz"}))
        assert (told.status, told.param) == (400, "after")


class TestQueries:
    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"limit": "0"}, "integer_below_min_value"),
            ({"limit": "101"}, "integer_above_max_value"),
            ({"limit": "x"}, "invalid_type"),
            ({"order": "up"}, "invalid_value"),
        ],
    )
    @pytest.mark.parametrize("is_of_items", [False, True])
    def test_a_bad_value_is_named(
        self, api: httpx2.Client, query: dict[str, str], code: str, *, is_of_items: bool
    ) -> None:
        path = path_of(begin(api)) if is_of_items else CONVERSATIONS
        told = refusal(api.get(path, params=query))
        assert (told.status, told.code, told.param) == (400, code, next(iter(query)))
        assert {api.get(path, params={"limit": limit}).status_code for limit in (1, 100)} == {200}


class TestWhileAResponseRuns:
    """The lock, as one that a run elsewhere holds."""

    async def test_writing_items_is_refused(self, api: httpx2.Client, database_url: str) -> None:
        name = begin(api, "hi")
        (item,) = items_of(api, name)
        await hold(database_url, name, seconds=60)
        locked = invalid(
            "Another process is currently operating on this conversation. Please retry in a few seconds.",
            code="conversation_locked",
            param="conversation",
        )
        assert refusal(api.post(path_of(name), json={"items": [said("x")]})) == locked
        assert refusal(api.delete(path_of(name, item["id"]))) == locked
        assert items_of(api, name) == [item]

    async def test_everything_else_is_not(self, api: httpx2.Client, database_url: str) -> None:
        name = begin(api, "hi")
        (item,) = items_of(api, name)
        await hold(database_url, name, seconds=60)
        assert api.get(path_of(name, item["id"])).json() == item
        assert texts_of(api, api.post(f"{CONVERSATIONS}/{name}/fork").json()["id"]) == ["hi"]
        path = f"{CONVERSATIONS}/{name}"
        assert api.post(path, json={"metadata": {"a": "b"}}).json()["metadata"] == {"a": "b"}
        assert api.get(path).status_code == 200
        assert api.delete(path).status_code == 200

    async def test_a_lease_that_has_run_out_hinders_nobody(
        self, api: httpx2.Client, database_url: str
    ) -> None:
        name = begin(api, "hi")
        (item,) = items_of(api, name)
        await hold(database_url, name, seconds=-1)
        add(api, name, "there")
        await hold(database_url, name, seconds=-1)
        assert api.delete(path_of(name, item["id"])).status_code == 200
        assert texts_of(api, name) == ["there"]
