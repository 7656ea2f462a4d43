"""POST /v1/responses, answered as JSON."""

import re
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, MISSING, create, frames, invalid, refusal, stream, text

NOT_ECHOED = {"input", "include", "stream", "stream_options", "context_management"}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def not_found(name: str) -> Any:
    return invalid(
        f"Previous response with id '{name}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


class TestCreate:
    def test_the_answer_is_the_finished_response(self, api: httpx2.Client) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "Say hello."})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        response = answer.json()
        assert re.fullmatch("resp_[0-9a-f]{32}", response["id"])
        assert (response["object"], response["status"], response["model"]) == (
            "response",
            "completed",
            "offline",
        )
        assert [item["type"] for item in response["output"]] == ["message"]
        assert '"Say hello."' in text(response)

    def test_reading_it_gives_the_same_bytes(self, api: httpx2.Client) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "hi", "metadata": {"ü": "\U0001f980"}})
        assert api.get(f"{CREATE}/{answer.json()['id']}").content == answer.content

    def test_streamed_or_not_it_is_the_same_response(self, api: httpx2.Client) -> None:
        whole, streamed = create(api), frames(stream(api))[-1].data["response"]
        assert whole.keys() == streamed.keys()
        assert text(whole) == text(streamed)
        assert whole["usage"] == streamed["usage"]

    def test_what_was_asked_is_echoed_and_what_must_not_be_is_not(self, api: httpx2.Client) -> None:
        asked = {
            "instructions": "Be brief.",
            "temperature": 0.5,
            "top_p": 0.25,
            "max_output_tokens": 1000,
            "max_tool_calls": 3,
            "metadata": {"a": "b"},
            "parallel_tool_calls": False,
            "safety_identifier": "s",
            "user": "u",
            "truncation": "auto",
            "prompt_cache_key": "k",
        }
        response = create(api, "hi", include=["reasoning.encrypted_content"], stream=False, **asked)
        assert {name: response[name] for name in asked} == asked
        assert not NOT_ECHOED & response.keys()
        assert "output_text" not in response

    def test_null_means_the_default(self, api: httpx2.Client) -> None:
        nulls = dict.fromkeys(
            [
                "temperature",
                "top_p",
                "metadata",
                "tools",
                "tool_choice",
                "text",
                "reasoning",
                "store",
                "top_logprobs",
            ]
        )
        with_nulls, without = create(api, "hi", **nulls), create(api, "hi")
        changing = {"id", "created_at", "completed_at", "output"}
        assert {k: v for k, v in with_nulls.items() if k not in changing} == {
            k: v for k, v in without.items() if k not in changing
        }
        assert with_nulls["metadata"] == {}
        assert with_nulls["reasoning"] == {"effort": None, "summary": None}
        assert with_nulls["text"] == {"format": {"type": "text"}, "verbosity": "medium"}

    def test_too_many_tokens_make_it_incomplete(self, api: httpx2.Client) -> None:
        response = create(api, "::words 50 0", max_output_tokens=16)
        assert (response["status"], response["completed_at"]) == ("incomplete", None)
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][-1]["status"] == "incomplete"
        assert response["usage"]["output_tokens"] == 16

    def test_an_unstored_response_leaves_nothing(self, api: httpx2.Client) -> None:
        response = create(api, "hi", store=False)
        path = f"{CREATE}/{response['id']}"
        assert response["store"] is False
        assert {call(path).status_code for call in (api.get, api.delete)} == {404}
        assert api.get(f"{path}/input_items").status_code == 404
        answer = api.post(
            CREATE, json={"model": "offline", "input": "x", "previous_response_id": response["id"]}
        )
        assert refusal(answer) == not_found(response["id"])

    @pytest.mark.parametrize(
        ("code", "status", "kind"),
        [
            ("server_error", 500, "server_error"),
            ("rate_limit_exceeded", 429, "rate_limit_error"),
            ("invalid_prompt", 400, "invalid_request_error"),
        ],
    )
    def test_a_failure_midway_is_told_and_stored(
        self, api: httpx2.Client, code: str, status: int, kind: str
    ) -> None:
        tag = {"test": f"failing with {code}"}
        answer = api.post(CREATE, json={"model": "offline", "input": f"::fail {code}", "metadata": tag})
        told = refusal(answer)
        assert (told.status, told.code, told.type) == (status, code, kind)
        stored = next(row for row in api.get(CREATE).json()["data"] if row["metadata"] == tag)
        assert (stored["status"], stored["error"]) == ("failed", {"code": code, "message": told.message})
        assert stored["completed_at"] is None

    def test_what_is_not_supported_is_refused_by_name(self, api: httpx2.Client) -> None:
        """This server has no broker."""
        told = refusal(api.post(CREATE, json={"model": "offline", "input": "hi", "background": True}))
        assert (told.status, told.code, told.param) == (400, "unsupported_parameter", "background")

    def test_a_hosted_tool_that_the_model_has_not_is_refused(self, api: httpx2.Client) -> None:
        told = refusal(
            api.post(CREATE, json={"model": "offline", "input": "hi", "tools": [{"type": "web_search"}]})
        )
        assert told.status == 400
        assert told.param is not None
        assert told.param.startswith("tools[0]")

    def test_a_body_of_another_type_is_read_as_json_all_the_same(self, api: httpx2.Client) -> None:
        body = b'{"model":"offline","input":"hi"}'
        assert api.post(CREATE, content=body, headers={"content-type": "text/plain"}).status_code == 200
        assert api.post(CREATE, content=body).status_code == 200


class TestOrderOfErrors:
    """One error a reply: shape, then state, then the input's emptiness, then the model (surface notes §2.4)."""

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"previous_response_id": MISSING}, "missing_required_parameter", "model"),
            ({"model": "offline", "previous_response_id": MISSING}, "missing_required_parameter", "input"),
            ({"model": "offline", "input": 1, "zzz": 1}, "unknown_parameter", "zzz"),
            (
                {"model": "offline", "input": "", "truncation": "x", "previous_response_id": MISSING},
                "invalid_value",
                "truncation",
            ),
            (
                {"model": "offline", "input": "", "previous_response_id": MISSING},
                "previous_response_not_found",
                "previous_response_id",
            ),
            ({"model": "offline", "input": ""}, "missing_required_parameter", None),
            ({"model": "offline", "input": [], "stream": True}, "missing_required_parameter", None),
            ({"model": "nobody", "input": "hi"}, "model_not_found", "model"),
        ],
    )
    def test_the_first_one_wins(
        self, api: httpx2.Client, body: dict[str, Any], code: str, param: str | None
    ) -> None:
        told = refusal(api.post(CREATE, json=body))
        assert (told.status, told.code, told.param) == (400, code, param)

    def test_a_parent_and_a_conversation_exclude_each_other(self, api: httpx2.Client) -> None:
        body = {"model": "offline", "input": "hi", "previous_response_id": "resp_x", "conversation": "conv_x"}
        told = refusal(api.post(CREATE, json=body))
        assert (told.status, told.code, told.param) == (400, "mutually_exclusive_parameters", None)


class TestChaining:
    def test_the_context_is_the_parents_input_and_output_and_the_new_input(self, api: httpx2.Client) -> None:
        first = create(api, "one")
        second = create(api, [{"role": "user", "content": "two"}], previous_response_id=first["id"])
        third = create(api, "three", previous_response_id=second["id"])
        assert "5 items" in text(third)
        assert '"one"' in text(third)
        assert '"three"' in text(third)
        assert third["previous_response_id"] == second["id"]
        used = [turn["usage"]["input_tokens"] for turn in (first, second, third)]
        assert used == sorted(set(used))

    def test_nothing_but_items_is_inherited(self, api: httpx2.Client) -> None:
        asked = {
            "instructions": "Shout.",
            "tools": [WEATHER],
            "tool_choice": "none",
            "temperature": 0.1,
            "metadata": {"a": "b"},
        }
        plain, special = create(api, "one"), create(api, "one", **asked)
        children = [create(api, "two", previous_response_id=parent["id"]) for parent in (plain, special)]
        changing = {"id", "created_at", "completed_at", "output", "previous_response_id"}
        one, other = ({k: v for k, v in child.items() if k not in changing} for child in children)
        assert one == other

    def test_siblings_do_not_see_each_other(self, api: httpx2.Client) -> None:
        parent = create(api, "one")
        forks = [create(api, name, previous_response_id=parent["id"]) for name in ("left", "right", "middle")]
        assert all("3 items" in text(fork) for fork in forks)
        grandchild = create(api, "again", previous_response_id=forks[1]["id"])
        page = api.get(f"{CREATE}/{grandchild['id']}/input_items", params={"order": "asc"}).json()
        assert [item["content"][0]["text"] for item in page["data"] if item["role"] == "user"] == [
            "one",
            "right",
            "again",
        ]

    def test_an_unstored_child_sees_its_parent(self, api: httpx2.Client) -> None:
        child = create(api, "two", previous_response_id=create(api, "one")["id"], store=False)
        assert "3 items" in text(child)

    def test_an_empty_input_goes_on_from_the_parent(self, api: httpx2.Client) -> None:
        parent = create(api, "one")
        assert "2 items" in text(create(api, [], previous_response_id=parent["id"]))

    def test_an_incomplete_parent_can_be_continued_with_its_cut_output(self, api: httpx2.Client) -> None:
        parent = create(api, "::words 50 0", max_output_tokens=16)
        child = create(api, "go on", previous_response_id=parent["id"])
        page = api.get(f"{CREATE}/{child['id']}/input_items", params={"order": "asc"}).json()
        assert page["data"][1] == parent["output"][0]

    def test_a_failed_parent_cannot_be_continued(self, api: httpx2.Client) -> None:
        failed = frames(stream(api, "::fail server_error"))[-1].data["response"]["id"]
        answer = api.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": failed})
        assert refusal(answer) == not_found(failed)

    @pytest.mark.parametrize("name", [MISSING, "resp_zzz", "resp_" + "0" * 31])
    def test_an_unknown_parent_is_a_bad_request(self, api: httpx2.Client, name: str) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": name})
        assert refusal(answer) == not_found(name)

    def test_a_parent_without_the_prefix_is_not_even_an_id(self, api: httpx2.Client) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": "msg_1"})
        told = refusal(answer)
        assert (told.code, told.param) == ("invalid_value", "previous_response_id")
        assert "begins with 'resp'" in told.message

    def test_a_call_is_answered_in_the_next_turn_without_its_tools(self, api: httpx2.Client) -> None:
        parent = create(api, '::call get_weather {"city":"Oslo"}', tools=[WEATHER])
        (call,) = parent["output"]
        assert (call["type"], call["arguments"]) == ("function_call", '{"city":"Oslo"}')
        answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        assert create(api, [answer], previous_response_id=parent["id"])["status"] == "completed"

    def test_an_open_call_must_be_answered(self, api: httpx2.Client) -> None:
        parent = create(api, "::call get_weather {}", tools=[WEATHER])
        call_id = parent["output"][0]["call_id"]
        answer = api.post(
            CREATE, json={"model": "offline", "input": "x", "previous_response_id": parent["id"]}
        )
        told = refusal(answer)
        assert (told.status, told.param) == (400, "input")
        assert told.message == f"No tool output found for function call {call_id}."

    def test_a_whole_turn_can_be_sent_back_as_input(self, api: httpx2.Client) -> None:
        first = create(api, "::reason thinking\nhello", include=["message.output_text.logprobs"])
        again = create(
            api,
            [{"role": "user", "content": "hello"}, *first["output"], {"role": "user", "content": "and now?"}],
        )
        assert "4 items" in text(again)

    def test_an_item_reference_stands_for_a_stored_item(self, api: httpx2.Client) -> None:
        said = create(api, "remember me")["output"][0]
        child = create(api, [{"type": "item_reference", "id": said["id"]}, {"role": "user", "content": "x"}])
        page = api.get(f"{CREATE}/{child['id']}/input_items", params={"order": "asc"}).json()
        assert page["data"][0] == said

    def test_an_item_that_is_sent_again_is_found_though_its_first_response_is_gone(
        self, api: httpx2.Client
    ) -> None:
        item = {"role": "user", "content": "again", "id": "msg_sent_again"}
        first = create(api, [item])
        assert api.delete(f"{CREATE}/{first['id']}").status_code == 200
        create(api, [item])
        assert "again" in text(create(api, [{"id": item["id"]}]))

    def test_an_item_of_an_unstored_response_is_found_once_it_was_sent_to_a_stored_one(
        self, api: httpx2.Client
    ) -> None:
        """It keeps the id that it got there, and that is where it is listed."""
        said = create(api, "forget me", store=False)["output"][0]
        child = create(api, [said, {"role": "user", "content": "x"}])
        page = api.get(f"{CREATE}/{child['id']}/input_items", params={"order": "asc"}).json()
        assert page["data"][0]["id"] == said["id"]
        again = create(api, [{"type": "item_reference", "id": said["id"]}, {"role": "user", "content": "y"}])
        page = api.get(f"{CREATE}/{again['id']}/input_items", params={"order": "asc"}).json()
        assert page["data"][0] == said

    def test_a_reference_to_an_unstored_item_is_not_found(self, api: httpx2.Client) -> None:
        said = create(api, "forget me", store=False)["output"][0]
        answer = api.post(CREATE, json={"model": "offline", "input": [{"id": said["id"]}]})
        told = refusal(answer)
        assert (told.status, told.param) == (404, "input")
        assert "not persisted" in told.message

    def test_no_id_stands_twice_in_a_context(self, api: httpx2.Client) -> None:
        parent = create(api, "one")
        body = {"model": "offline", "input": parent["output"], "previous_response_id": parent["id"]}
        told = refusal(api.post(CREATE, json=body))
        assert (told.status, told.param) == (400, "input")
        assert told.message.startswith(f"Duplicate item found with id {parent['output'][0]['id']}.")
