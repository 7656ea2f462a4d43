"""Reading, listing and deleting stored responses."""

from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, MISSING, create, invalid, refusal, text

PNG = "data:image/png;base64,iVBORw0KGgo="
IMAGE = "message.input_image.image_url"
LOGPROBS = "message.output_text.logprobs"


def absent(name: str) -> Any:
    return invalid(f"Response with id '{name}' not found.", code=None, param=None, status=404)


def wrong_prefix(param: str, name: str) -> Any:
    return invalid(f"Invalid '{param}': '{name}'. Expected an ID that begins with 'resp'.", param=param)


def with_image(api: httpx2.Client) -> dict[str, Any]:
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": PNG, "detail": "low"},
    ]
    return create(api, [{"role": "user", "content": content}])


class TestGet:
    def test_logprobs_are_shown_only_to_those_who_ask(self, api: httpx2.Client) -> None:
        created = create(api, "hi", top_logprobs=2, include=[LOGPROBS])
        part = created["output"][0]["content"][0]
        assert part["logprobs"]
        path = f"{CREATE}/{created['id']}"
        hidden = api.get(path).json()
        assert hidden["output"][0]["content"][0] == {**part, "logprobs": []}
        assert {**hidden, "output": created["output"]} == created
        assert api.get(path, params={"include": LOGPROBS}).json() == created
        assert api.get(path, params={"include[]": [LOGPROBS, IMAGE]}).json() == created

    def test_what_hides_nothing_is_read_as_it_was_created(self, api: httpx2.Client) -> None:
        created = create(api)
        assert api.get(f"{CREATE}/{created['id']}", params={"include": LOGPROBS}).json() == created

    @pytest.mark.parametrize(
        "query", [{"include": "bogus"}, {"include[]": ["reasoning.encrypted_content", "bogus"]}]
    )
    def test_an_unknown_include_is_refused(self, api: httpx2.Client, query: dict[str, Any]) -> None:
        told = refusal(api.get(f"{CREATE}/{MISSING}", params=query))
        place = len(query.get("include[]", ["only one"])) - 1
        assert (told.status, told.code, told.param) == (400, "invalid_value", f"include[{place}]")
        assert told.message.startswith(
            "Invalid value: 'bogus'. Supported values are: 'file_search_call.results', "
        )
        assert told.message.endswith(f", 'reasoning.encrypted_content', and '{LOGPROBS}'.")

    def test_a_foreground_response_cannot_be_replayed(self, api: httpx2.Client) -> None:
        words = "This response cannot be streamed because it was not created with background=true."
        path = f"{CREATE}/{create(api)['id']}"
        assert refusal(api.get(path, params={"stream": "true"})) == invalid(words, code=None, param="stream")
        assert api.get(path, params={"stream": "false"}).status_code == 200

    def test_stream_is_a_boolean(self, api: httpx2.Client) -> None:
        words = "Invalid type for 'stream': expected a boolean, but got a string instead."
        answer = api.get(f"{CREATE}/{create(api)['id']}", params={"stream": "perhaps"})
        assert refusal(answer) == invalid(words, code="invalid_type", param="stream")


class TestDelete:
    def test_what_is_deleted_is_gone(self, api: httpx2.Client) -> None:
        name = create(api)["id"]
        path = f"{CREATE}/{name}"
        assert api.delete(path).json() == {"id": name, "object": "response", "deleted": True}
        assert refusal(api.delete(path)) == absent(name)
        assert refusal(api.get(path)) == absent(name)
        assert refusal(api.get(path, params={"stream": "true"})) == absent(name)
        assert refusal(api.get(f"{path}/input_items")) == absent(name)
        assert name not in [row["id"] for row in api.get(CREATE).json()["data"]]

    def test_nothing_new_can_be_chained_on_it(self, api: httpx2.Client) -> None:
        name = create(api)["id"]
        api.delete(f"{CREATE}/{name}")
        told = refusal(
            api.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": name})
        )
        assert (told.status, told.code) == (400, "previous_response_not_found")
        assert told.message == f"Previous response with id '{name}' not found."

    def test_its_descendants_live_on(self, api: httpx2.Client) -> None:
        parent = create(api, "one")
        child = create(api, "two", previous_response_id=parent["id"])
        api.delete(f"{CREATE}/{parent['id']}")
        assert api.get(f"{CREATE}/{child['id']}").json() == child
        assert len(api.get(f"{CREATE}/{child['id']}/input_items").json()["data"]) == 3
        grandchild = create(api, "three", previous_response_id=child["id"])
        assert "5 items" in text(grandchild)


by_id = pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("GET", "/input_items")])


class TestIds:
    @by_id
    @pytest.mark.parametrize(
        "name", [MISSING, "resp_zzz", "resp_", "resp_" + "A" * 32, "resp_" + "0" * 33, "respx"]
    )
    def test_an_id_of_nothing_is_not_found(
        self, api: httpx2.Client, method: str, tail: str, name: str
    ) -> None:
        assert refusal(api.request(method, f"{CREATE}/{name}{tail}")) == absent(name)

    @by_id
    @pytest.mark.parametrize("name", ["msg_" + "0" * 36, "x", "RESP_" + "0" * 32])
    def test_an_id_of_another_kind_is_a_bad_request(
        self, api: httpx2.Client, method: str, tail: str, name: str
    ) -> None:
        assert refusal(api.request(method, f"{CREATE}/{name}{tail}")) == wrong_prefix("response_id", name)


class TestList:
    @pytest.fixture
    def five(self, api: httpx2.Client) -> list[str]:
        """The newest responses that there are, oldest first."""
        return [create(api, f"number {number}")["id"] for number in range(5)]

    def listed(self, api: httpx2.Client, **query: Any) -> dict[str, Any]:
        answer = api.get(CREATE, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def test_the_newest_come_first(self, api: httpx2.Client, five: list[str]) -> None:
        page = self.listed(api, limit=5)
        assert [row["id"] for row in page["data"]] == five[::-1]
        assert {key: page[key] for key in page if key != "data"} == {
            "object": "list",
            "first_id": five[-1],
            "last_id": five[0],
            "has_more": page["has_more"],
        }

    def test_pages_follow_each_other_in_both_directions(self, api: httpx2.Client, five: list[str]) -> None:
        assert self.walked(api, five[4], "desc", 3) == five[3::-1][:3]
        assert self.walked(api, five[0], "asc", 4) == five[1:]

    def walked(self, api: httpx2.Client, after: str, order: str, count: int) -> list[str]:
        """The ids after a cursor, two at a time."""
        found: list[str] = []
        while len(found) < count:
            page = self.listed(api, after=after, order=order, limit=2)
            found += [row["id"] for row in page["data"]]
            after = page["last_id"]
        return found[:count]

    def test_the_last_page_says_so(self, api: httpx2.Client, five: list[str]) -> None:
        page = self.listed(api, after=five[2], order="asc", limit=2)
        assert ([row["id"] for row in page["data"]], page["has_more"]) == (five[3:], False)
        assert self.listed(api, after=five[2], order="asc", limit=1)["has_more"] is True

    def test_a_page_after_the_end_is_empty(self, api: httpx2.Client, five: list[str]) -> None:
        page = self.listed(api, after=five[-1], order="asc")
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    def test_a_deleted_response_still_serves_as_a_cursor(self, api: httpx2.Client) -> None:
        names = [create(api)["id"] for _ in range(3)]
        api.delete(f"{CREATE}/{names[1]}")
        page = self.listed(api, after=names[1], limit=1)
        assert page["last_id"] == names[0]

    def test_rows_are_whole_responses_but_for_their_output(self, api: httpx2.Client) -> None:
        created = create(api, "::reason r\nhi", metadata={"a": '"output":[],'}, instructions='"output":[]')
        row = self.listed(api, limit=1)["data"][0]
        assert row == {key: value for key, value in created.items() if key != "output"}

    def test_a_page_can_be_of_one_model(self, api: httpx2.Client, five: list[str]) -> None:
        assert [row["id"] for row in self.listed(api, model="offline", limit=5)["data"]] == five[::-1]
        assert self.listed(api, model="nobody")["data"] == []

    def test_an_unstored_response_is_not_listed(self, api: httpx2.Client) -> None:
        name = create(api, "hi", store=False)["id"]
        assert name not in [row["id"] for row in self.listed(api)["data"]]

    @pytest.mark.parametrize("after", ["msg_1", ""])
    def test_a_bad_cursor_is_refused(self, api: httpx2.Client, after: str) -> None:
        assert refusal(api.get(CREATE, params={"after": after})) == wrong_prefix("after", after)

    def test_a_cursor_that_no_response_can_have_is_refused(self, api: httpx2.Client) -> None:
        refused = refusal(api.get(CREATE, params={"after": "resp_zzz"}))
        assert (refused.status, refused.param) == (400, "after")


class TestInputItems:
    @pytest.fixture
    def chain(self, api: httpx2.Client) -> tuple[str, list[dict[str, Any]]]:
        """The id of a third turn, and all that its model was given, oldest first."""
        first = create(api, "one")
        second = create(api, "::reason why\ntwo", previous_response_id=first["id"])
        third = create(
            api,
            [{"role": "developer", "content": "be kind"}, {"role": "user", "content": "three"}],
            previous_response_id=second["id"],
        )
        page = api.get(f"{CREATE}/{third['id']}/input_items", params={"order": "asc"}).json()
        return third["id"], page["data"]

    def page(self, api: httpx2.Client, name: str, **query: Any) -> dict[str, Any]:
        answer = api.get(f"{CREATE}/{name}/input_items", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def test_they_are_the_history_with_its_outputs_and_the_new_input(
        self, chain: tuple[str, list[dict[str, Any]]]
    ) -> None:
        kinds = [(item["type"], item.get("role")) for item in chain[1]]
        said, thought = ("message", "assistant"), ("reasoning", None)
        assert kinds == [
            ("message", "user"),
            said,
            ("message", "user"),
            thought,
            said,
            ("message", "developer"),
            ("message", "user"),
        ]

    def test_they_are_in_the_resource_form(self, chain: tuple[str, list[dict[str, Any]]]) -> None:
        first = chain[1][0]
        assert first["id"].startswith("msg_")
        assert {key: first[key] for key in first if key != "id"} == {
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "one"}],
        }

    def test_the_newest_come_first(self, api: httpx2.Client, chain: tuple[str, list[dict[str, Any]]]) -> None:
        name, items = chain
        page = self.page(api, name)
        assert page["data"] == items[::-1]
        assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == (
            "list",
            items[-1]["id"],
            items[0]["id"],
            False,
        )

    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
    def test_pages_of_any_size_make_up_the_whole(
        self, api: httpx2.Client, chain: tuple[str, list[dict[str, Any]]], order: str, limit: int
    ) -> None:
        name, items = chain
        found, query = list[dict[str, Any]](), dict[str, Any]()
        while True:
            page = self.page(api, name, order=order, limit=limit, **query)
            found += page["data"]
            query["after"] = page["last_id"]
            if not page["has_more"]:
                break
        assert found == (items if order == "asc" else items[::-1])

    def test_an_unknown_cursor_is_refused(
        self, api: httpx2.Client, chain: tuple[str, list[dict[str, Any]]]
    ) -> None:
        answer = api.get(f"{CREATE}/{chain[0]}/input_items", params={"after": "msg_zzz"})
        assert refusal(answer) == invalid(
            "Invalid 'after': no item with id 'msg_zzz' in this list.", param="after"
        )

    def test_an_image_is_shown_only_to_those_who_ask(self, api: httpx2.Client) -> None:
        name = with_image(api)["id"]
        hidden = self.page(api, name)["data"][0]["content"][1]
        assert hidden == {"type": "input_image", "image_url": None, "detail": "low"}
        shown = self.page(api, name, include=IMAGE)["data"][0]["content"][1]
        assert shown == {"type": "input_image", "image_url": PNG, "detail": "low"}

    def test_an_image_of_an_earlier_turn_is_gated_too(self, api: httpx2.Client) -> None:
        child = create(api, "and?", previous_response_id=with_image(api)["id"])
        hidden = self.page(api, child["id"], order="asc")["data"][0]["content"][1]
        shown = self.page(api, child["id"], order="asc", **{"include[]": IMAGE})["data"][0]["content"][1]
        assert (hidden["image_url"], shown["image_url"]) == (None, PNG)


class TestQueries:
    """The words of the reference, on both lists (surface notes §2.3)."""

    @pytest.fixture(params=["", "/input_items"])
    def path(self, request: pytest.FixtureRequest, api: httpx2.Client) -> str:
        return f"{CREATE}/{create(api)['id']}/input_items" if request.param else CREATE

    @pytest.mark.parametrize(
        ("query", "code", "message"),
        [
            ({"limit": "0"}, "integer_below_min_value", "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead."),
            ({"limit": "101"}, "integer_above_max_value", "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead."),
            ({"limit": "abc"}, "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
            ({"limit": ""}, "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
            ({"limit": "1.5"}, "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
            ({"limit": "9" * 50}, "integer_above_max_value", f"Invalid 'limit': integer above maximum value. Expected a value <= 100, but got {'9' * 50} instead."),
            ({"order": "bogus"}, "invalid_value", "Invalid value: 'bogus'. Supported values are: 'asc' and 'desc'."),
            ({"order": ""}, "invalid_value", "Invalid value: ''. Supported values are: 'asc' and 'desc'."),
        ],
    )  # fmt: skip
    def test_a_bad_value_is_named(
        self, api: httpx2.Client, path: str, query: dict[str, str], code: str, message: str
    ) -> None:
        (param,) = query
        assert refusal(api.get(path, params=query)) == invalid(message, code=code, param=param)

    @pytest.mark.parametrize(
        ("place", "param", "supported"),
        [
            ("", "status", "'queued', 'in_progress', 'completed', 'incomplete', 'failed', and 'cancelled'"),
            ("/stats", "group_by", "'model', 'status', 'day', and 'user'"),
        ],
    )
    def test_values_are_listed_as_in_errors_of_bodies(
        self, api: httpx2.Client, place: str, param: str, supported: str
    ) -> None:
        message = f"Invalid value: 'bogus'. Supported values are: {supported}."
        told = refusal(api.get(CREATE + place, params={param: "bogus"}))
        assert told == invalid(message, code="invalid_value", param=param)

    def test_the_bounds_themselves_are_fine(self, api: httpx2.Client, path: str) -> None:
        assert {api.get(path, params={"limit": limit}).status_code for limit in (1, 100)} == {200}
