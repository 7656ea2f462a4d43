"""Every body and every event of the live server fits the Open Responses schema."""

from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest

from tests.live import LiveServer
from tests.openresponses.scenarios import FAILING, PLAIN_TOOL, SCENARIOS, WEATHER
from tests.openresponses.schema import EVENT, ITEM, RESPONSE, check
from tests.waiting import PATIENCE_SECONDS

ALL = SCENARIOS | FAILING
answered = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
scenarios = pytest.mark.parametrize("scenario", ALL.values(), ids=ALL.keys())

TERMINAL = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


@pytest.fixture(scope="module")
def api(server: LiveServer) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=server.base_url, timeout=PATIENCE_SECONDS) as client:
        yield client


def create(api: httpx2.Client, scenario: dict[str, Any]) -> bytes:
    answer = api.post("/responses", json={"model": "offline", **scenario})
    assert answer.status_code == 200, answer.text
    return answer.content


def stream(api: httpx2.Client, scenario: dict[str, Any]) -> list[dict[str, Any]]:
    """The events, each of them checked."""
    *blocks, done, end = create(api, {**scenario, "stream": True}).split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    return [checked(block) for block in blocks]


def checked(block: bytes) -> dict[str, Any]:
    name, data = block.split(b"\n")
    json = data.removeprefix(b"data: ")
    check(EVENT, json)
    event = orjson.loads(json)
    assert name == b"event: " + event["type"].encode()
    return event


class TestBodies:
    @answered
    def test_a_created_response_fits(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        check(RESPONSE, create(api, scenario))

    @scenarios
    def test_a_stored_response_and_its_input_fit(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        response = stream(api, {**scenario, "store": True})[-1]["response"]
        check(RESPONSE, api.get(f"/responses/{response['id']}").content)
        for item in api.get(f"/responses/{response['id']}/input_items").json()["data"]:
            check(ITEM, orjson.dumps(item))

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_a_chain_with_a_tool_in_it_fits(self, api: httpx2.Client, *, is_streamed: bool) -> None:
        asking = {"input": "::reason hm\n::call get_weather {}\n::call now", "tools": [WEATHER, PLAIN_TOOL]}
        first = orjson.loads(create(api, asking))
        outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": output}
            for item, output in zip(
                first["output"][1:], ["rain", [{"type": "input_text", "text": "noon"}]], strict=True
            )
        ]
        answering = {"input": outputs, "previous_response_id": first["id"]}
        second = (
            stream(api, answering)[-1]["response"] if is_streamed else orjson.loads(create(api, answering))
        )
        third = orjson.loads(create(api, {"input": "and now?", "previous_response_id": second["id"]}))
        for response in (first, second, third):
            check(RESPONSE, orjson.dumps(response))
        page = api.get(f"/responses/{third['id']}/input_items", params={"limit": 100}).json()
        assert len(page["data"]) == 9
        for item in page["data"]:
            check(ITEM, orjson.dumps(item))


class TestStreams:
    """What the specification says of streams beyond the shape of each event."""

    @scenarios
    def test_the_status_decides_the_last_event(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        events = stream(api, scenario)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
        assert events[-1]["type"] == TERMINAL[events[-1]["response"]["status"]]
        assert sum(event["type"] in TERMINAL.values() for event in events) == 1

    @scenarios
    def test_an_item_is_added_then_changed_then_done(
        self, api: httpx2.Client, scenario: dict[str, Any]
    ) -> None:
        events = stream(api, scenario)
        output = events[-1]["response"]["output"]
        for index, item in enumerate(output):
            told = [event for event in events if event.get("output_index") == index]
            first, last = told[0], told[-1]
            assert (first["type"], last["type"]) == (
                "response.output_item.added",
                "response.output_item.done",
            )
            assert last["item"] == item
            assert (first["item"]["id"], first["item"]["type"]) == (item["id"], item["type"])
            assert first["item"].get("status", "in_progress") == "in_progress"
            assert {event["item_id"] for event in told[1:-1]} <= {item["id"]}
            if item["type"] == "function_call":
                assert first["item"]["arguments"] == ""
        assert {event["output_index"] for event in events if "output_index" in event} == set(
            range(len(output))
        )

    @scenarios
    def test_deltas_add_up_to_what_is_done(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        said = dict[tuple[Any, ...], str]()
        for event in stream(api, scenario):
            kind, _, step = event["type"].rpartition(".")
            place = (kind, event.get("item_id"), event.get("content_index"), event.get("summary_index"))
            if step == "delta":
                said[place] = said.get(place, "") + event["delta"]
            elif step == "done" and (whole := {"text", "refusal", "arguments"} & event.keys()):
                assert said.pop(place, "") == event[whole.pop()]
        assert not said

    @scenarios
    def test_a_part_is_added_empty_and_done_as_it_stands_in_its_item(
        self, api: httpx2.Client, scenario: dict[str, Any]
    ) -> None:
        events = stream(api, scenario)
        items = {item["id"]: item for item in events[-1]["response"]["output"]}
        parts = [event for event in events if event["type"].startswith("response.content_part.")]
        for event in parts:
            words = event["part"].get("text", event["part"].get("refusal"))
            if event["type"].endswith(".added"):
                assert words == ""
            else:
                assert event["part"] == items[event["item_id"]]["content"][event["content_index"]]
        steps = [event["type"].rpartition(".")[2] for event in parts]
        assert steps == ["added", "done"] * (len(parts) // 2)

    @scenarios
    def test_the_item_that_was_cut_off_is_the_last(
        self, api: httpx2.Client, scenario: dict[str, Any]
    ) -> None:
        response = stream(api, scenario)[-1]["response"]
        *others, last = (item.get("status", "completed") for item in response["output"])
        assert set(others) <= {"completed"}
        assert (
            response["status"] == "completed"
            or response["output"][-1]["type"] == "reasoning"
            or last == "incomplete"
        )
        assert response["status"] != "completed" or last == "completed"


class TestFailures:
    @pytest.mark.parametrize("scenario", FAILING.values(), ids=FAILING.keys())
    def test_those_who_wait_get_an_http_error(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        answer = api.post("/responses", json={"model": "offline", **scenario})
        assert answer.status_code in {429, 500}
        assert answer.json()["error"].keys() == {"type", "code", "message", "param"}
