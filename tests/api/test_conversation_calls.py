"""What a turn in a conversation refers to: open tool calls, stored items, reasoning that is encrypted."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import orjson
import pytest

from app.domain.interruptions import TEXT
from tests.api.asking import CREATE, create, invalid, refusal, text
from tests.api.conftest import client_of
from tests.api.conversing import add, begin, called, gave, give_away, items_of, said, texts, texts_of
from tests.api.running import attempt, is_free, turn
from tests.api.upstream import MESSAGE, RESPONSE
from tests.live import LiveServer
from tests.providers.wire import Wire, json_answer

HEADER = "Holdfast-On-Open-Tool-Calls"
INTERRUPT = {HEADER: "interrupt"}
TOOLS = [{"type": "function", "name": name} for name in "fg"]


def left_open(api: httpx2.Client) -> tuple[str, list[str]]:
    """A conversation whose client died before it had run two calls; their ids."""
    name = begin(api)
    calls = turn(api, name, "::call f {}\n::call g {}", tools=TOOLS)["output"]
    return name, [call["call_id"] for call in calls]


def missing(*call_ids: str) -> Any:
    return invalid(f"No tool output found for function call {', '.join(call_ids)}.", code=None, param="input")


@pytest.fixture(scope="module")
def lenient(database_url: str) -> Generator[httpx2.Client]:
    """A server that fills in what was left open."""
    environment = {"HOLDFAST_ON_OPEN_TOOL_CALLS": "interrupt"}
    with LiveServer(database_url, environment=environment) as live, client_of(live) as client:
        yield client


class TestOpenCalls:
    def test_the_next_turn_is_told_all_of_them(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        before = items_of(api, name)
        for is_stored in (True, False):
            assert refusal(attempt(api, name, store=is_stored)) == missing(*call_ids)
        assert items_of(api, name) == before
        assert refusal(attempt(api, name, [gave(call_ids[1])])) == missing(call_ids[0])

    def test_the_conversation_goes_on_when_they_are_answered_in_any_order(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        turn(api, name, [gave(call_ids[1]), gave(call_ids[0])])
        turn(api, name, "more")

    def test_outputs_that_are_added_as_items_answer_them(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        add(api, name, gave(call_ids[0]))
        assert refusal(attempt(api, name)) == missing(call_ids[1])
        add(api, name, gave(call_ids[1]))
        turn(api, name)

    def test_a_call_that_was_added_as_an_item_waits_too(self, api: httpx2.Client) -> None:
        name = begin(api)
        add(api, name, called("call_a"))
        assert refusal(attempt(api, name)) == missing("call_a")
        turn(api, name, [gave("call_a")])

    def test_an_output_of_a_call_that_is_not_there_is_refused(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        assert refusal(attempt(api, name, [gave("call_a")])) == invalid(
            "No tool call found for function call output with call_id call_a.", code=None, param="input"
        )
        assert is_free(api, name)

    def test_a_call_of_long_ago_may_be_answered_again(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        turn(api, name, [gave(call_id) for call_id in call_ids])
        turn(api, name, "more")
        turn(api, name, [gave(call_ids[0], output="2")])


class TestInterrupted:
    def test_what_is_missing_is_filled_in_and_can_be_seen(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        answer = attempt(api, name, "go on", headers=INTERRUPT)
        assert answer.status_code == 200, answer.text
        items = items_of(api, name)
        kinds = ["function_call", "function_call", "function_call_output", "function_call_output"]
        assert texts(items)[1:] == [*kinds, "go on", text(answer.json())]
        filled = items[3:5]
        assert [item["call_id"] for item in filled] == call_ids
        assert {(item["output"], item["status"]) for item in filled} == {(TEXT, "incomplete")}
        path = f"{CREATE}/{answer.json()['id']}/input_items"
        assert api.get(path, params={"order": "asc"}).json()["data"] == items[:-1]
        assert api.get(f"/v1/conversations/{name}/items/{filled[0]['id']}").json() == filled[0]
        turn(api, name, "more")

    def test_what_was_sent_is_left_as_it_is(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        answer = attempt(api, name, [gave(call_ids[0]), said("go on")], headers=INTERRUPT)
        assert answer.status_code == 200, answer.text
        outputs = [item for item in items_of(api, name) if item["type"] == "function_call_output"]
        assert {item["call_id"]: item["output"] for item in outputs} == {call_ids[0]: "1", call_ids[1]: TEXT}
        assert len(outputs) == 2

    def test_a_chain_can_go_on_likewise(self, api: httpx2.Client) -> None:
        first = create(api, "::call f {}", tools=TOOLS)
        body = {"model": "offline", "input": "go on", "previous_response_id": first["id"]}
        assert refusal(api.post(CREATE, json=body)) == missing(first["output"][0]["call_id"])
        answer = api.post(CREATE, json=body, headers=INTERRUPT)
        assert answer.status_code == 200, answer.text
        given = api.get(f"{CREATE}/{answer.json()['id']}/input_items").json()["data"]
        assert given[1]["output"] == TEXT

    def test_a_turn_that_fails_fills_in_nothing(self, api: httpx2.Client) -> None:
        name, call_ids = left_open(api)
        before = items_of(api, name)
        assert attempt(api, name, "::fail server_error", headers=INTERRUPT).status_code == 500
        assert attempt(api, name, "hi", store=False, headers=INTERRUPT).status_code == 200
        assert items_of(api, name) == before
        assert refusal(attempt(api, name)) == missing(*call_ids)

    def test_words_are_no_screenshot(self, api: httpx2.Client) -> None:
        name = begin(api)
        call = {
            "type": "computer_call",
            "call_id": "call_c",
            "status": "completed",
            "pending_safety_checks": [],
        }
        add(api, name, {**call, "id": "cu_1", "action": {"type": "screenshot"}})
        told = refusal(attempt(api, name, headers=INTERRUPT))
        assert (told.status, told.param) == (400, "input")
        assert "No tool output found for computer call call_c." in told.message
        add(api, name, "the lock is free")

    def test_a_setting_speaks_for_requests_that_do_not(self, lenient: httpx2.Client) -> None:
        name, call_ids = left_open(lenient)
        assert refusal(attempt(lenient, name, headers={HEADER: "reject"})) == missing(*call_ids)
        turn(lenient, name, "go on")
        assert texts_of(lenient, name)[3:6] == ["function_call_output", "function_call_output", "go on"]

    @pytest.mark.parametrize("value", ["", "yes", "INTERRUPT", "interrupt,reject"])
    def test_another_choice_is_refused_by_name(self, api: httpx2.Client, value: str) -> None:
        assert refusal(attempt(api, begin(api), headers={HEADER: value})) == invalid(
            f"Invalid header '{HEADER}': '{value}'. Supported values are: 'reject' and 'interrupt'.",
            param=HEADER,
        )


class TestReferences:
    def test_to_what_was_added_as_an_item(self, api: httpx2.Client) -> None:
        (item,) = add(api, begin(api), "one")
        elsewhere = begin(api)
        response = turn(api, elsewhere, [{"type": "item_reference", "id": item["id"]}, said("two")])
        assert text(response).startswith('I was given 2 items; the first user message was "one"')
        assert texts_of(api, elsewhere) == ["one", "two", text(response)]

    def test_to_what_a_response_said_in_a_conversation(self, api: httpx2.Client) -> None:
        first = turn(api, begin(api), "one")
        response = create(api, [{"id": first["output"][0]["id"]}, said("two")])
        given = api.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert texts(given) == [text(first), "two"]

    def test_to_one_that_has_its_clients_own_id(self, api: httpx2.Client) -> None:
        name, elsewhere = begin(api), begin(api)
        own = f"msg_mine_{name[-12:]}"
        add(api, name, said("one", id=own))
        assert texts_of(api, name) == ["one"]
        response = turn(api, elsewhere, [{"type": "item_reference", "id": own}, said("two")])
        assert texts_of(api, elsewhere) == ["one", "two", text(response)]
        assert items_of(api, elsewhere)[0]["id"] == own

    def test_to_one_of_the_same_conversation_would_stand_there_twice(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        (item,) = items_of(api, name)
        told = refusal(attempt(api, name, [{"type": "item_reference", "id": item["id"]}]))
        assert told.message.startswith(f"Duplicate item found with id {item['id']}.")
        assert is_free(api, name)

    async def test_to_another_tenants_is_to_nothing(
        self, api: httpx2.Client, database_url: str, caller: Any
    ) -> None:
        theirs = begin(api, "one")
        items = [*items_of(api, theirs), *add(api, theirs, said("two", id=f"msg_{theirs[-12:]}"))]
        await give_away(database_url, theirs, caller.tenant_id)
        for item in items:
            name = begin(api)
            told = refusal(attempt(api, name, [{"type": "item_reference", "id": item["id"]}]))
            assert (told.status, told.code, told.param) == (404, None, "input")
            assert told.message.startswith(f"Item with id '{item['id']}' not found.")
            assert is_free(api, name)


# Every character that some encoder writes in another way than it was sent.
SECRET = "gAAAAA+/=&\"\\/\u2028\u00fc\U0001f980<>'\u007f"
REASONING = {"id": "rs_upstream", "type": "reasoning", "summary": [], "encrypted_content": SECRET}


class TestReasoning:
    @pytest.fixture
    async def model(self, upstream_port: int) -> AsyncGenerator[Wire]:
        """The model `wire`, which thinks before its first answer."""
        plays = Wire([
            json_answer({**RESPONSE, "output": [REASONING, MESSAGE]}),
            json_answer({**RESPONSE, "output": [{**MESSAGE, "id": "msg_upstream_2"}]}),
        ])  # fmt: skip
        server = await asyncio.start_server(plays.serve, "127.0.0.1", upstream_port)
        yield plays
        server.close()
        await plays.end()
        await server.wait_closed()

    async def test_it_comes_back_as_it_came(self, terse: httpx2.Client, model: Wire) -> None:
        name = begin(terse)
        first = await asyncio.to_thread(turn, terse, name, "one", model="wire")
        await asyncio.to_thread(turn, terse, name, "two", model="wire")
        shown = items_of(terse, name)[1]
        assert shown == first["output"][0]
        assert (shown["type"], shown["encrypted_content"]) == ("reasoning", SECRET)
        sent = model.requests[1].json["input"]
        assert [item["type"] for item in sent] == ["message", "reasoning", "message", "message"]
        assert (sent[1]["id"], sent[2]["id"]) == (REASONING["id"], MESSAGE["id"])
        assert orjson.dumps(SECRET) in model.requests[1].body

    async def test_what_a_client_brings_is_sent_as_it_was_brought(
        self, terse: httpx2.Client, model: Wire
    ) -> None:
        name = begin(terse, "one")
        brought = {**REASONING, "id": f"rs_{name[-12:]}", "content": [], "status": "completed"}
        add(terse, name, brought, {"role": "assistant", "content": "So it is."})
        assert items_of(terse, name)[1] == brought
        await asyncio.to_thread(turn, terse, name, "two", model="wire")
        assert model.requests[0].json["input"][1] == brought
        assert orjson.dumps(SECRET) in model.requests[0].body
