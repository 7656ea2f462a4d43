"""What creates have beside OpenAI's plain ones works over a WebSocket as well: dialects, prompts, compaction."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, frames
from tests.api.conftest import client_of
from tests.api.socketing import Wire, check_error, wired
from tests.compacting import AUTOMATIC, ORDER, compacted, long, server_of, settings
from tests.live import LiveServer
from tests.prompting import keep, user

ROUTER = {"Holdfast-Dialect": "openrouter"}
OPEN_CALL = [
    user("Remember: gold is heavy."),
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
]
ANSWERED = {"type": "function_call_output", "call_id": "c1", "output": "x"}


@pytest.fixture(scope="module")
def compacting(database_url: str) -> Generator[LiveServer]:
    with server_of(database_url) as server:
        yield server


@pytest.fixture(scope="module")
def client(compacting: LiveServer) -> Generator[httpx2.Client]:
    with client_of(compacting) as client:
        yield client


@pytest.fixture
async def wire(compacting: LiveServer) -> AsyncGenerator[Wire]:
    async with wired(compacting) as wire:
        yield wire


class TestDialect:
    async def test_events_carry_what_a_stream_over_http_carries(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        async with wired(server, ROUTER) as wire:
            await wire.create(stream_id="a")
            heard = await wire.rest("a")
        body = {"model": "offline", "input": "hi", "stream": True}
        streamed = [each.data for each in frames(api.post(CREATE, json=body, headers=ROUTER).content)]
        assert [each["type"] for each in heard] == [each["type"] for each in streamed]
        for ours, theirs in zip(heard, streamed, strict=True):
            assert ours.pop("stream_id") == "a"
            assert ours.keys() == theirs.keys()
            assert ours.get("response", {}).keys() == theirs.get("response", {}).keys()
        end = heard[-1]["response"]
        assert end["usage"]["cost"] is None
        assert api.get(f"{CREATE}/{end['id']}", headers=ROUTER).json() == end

    async def test_refusals_are_those_of_every_socket(self, server: LiveServer) -> None:
        """Their `code` is a string, as in the events beside them (behaviour 141)."""
        async with wired(server, ROUTER) as wire:
            await wire.create(model="nobody")
            [frame] = await wire.rest()
            await wire.send(type="nothing")
            malformed = await wire.frame()
        for told, code in ((frame, "model_not_found"), (malformed, "invalid_value")):
            check_error(told)
            assert (told["status"], told["error"]["code"]) == (400, code)

    async def test_another_value_is_refused_over_http(self, api: httpx2.Client) -> None:
        handshake = {
            "connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==", "Holdfast-Dialect": "x",
        }  # fmt: skip
        answer = api.get(CREATE, headers=handshake)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "Holdfast-Dialect"


async def test_a_prompt_is_rendered(server: LiveServer, api: httpx2.Client) -> None:
    kept = keep(api, {"messages": [user("I am {{name}}.")]})["id"]
    async with wired(server) as wire:
        made = await wire.response(prompt={"id": kept, "variables": {"name": "Kari"}})
        gone = await wire.refused(prompt={"id": "pmpt_gone"})
    assert made["prompt"] == {"id": kept, "variables": {"name": "Kari"}, "version": "1"}
    assert "I am Kari." in made["output"][-1]["content"][0]["text"]
    assert gone["status"] == 404


class TestCompaction:
    @pytest.mark.parametrize("stores", [True, False], ids=["stored", "remembered"])
    @pytest.mark.parametrize("stores_next", [True, False], ids=["stored next", "remembered next"])
    async def test_what_was_compacted_is_continued(
        self,
        wire: Wire,
        stores: bool,  # noqa: FBT001
        stores_next: bool,  # noqa: FBT001
    ) -> None:
        given = long("Remember: silver shines.")
        first = await wire.response(given, store=stores)
        parent = {"previous_response_id": first["id"], "store": stores}
        second = await wire.response("hi", context_management=AUTOMATIC, **parent)
        assert [item["type"] for item in second["output"]] == ["compaction", "message"]
        third = await wire.response("::recall silver", previous_response_id=second["id"], store=stores_next)
        assert "silver shines" in third["output"][-1]["content"][0]["text"]

    @pytest.mark.parametrize("stores_next", [True, False], ids=["stored next", "remembered next"])
    async def test_an_order_to_compact_is_continued(self, wire: Wire, stores_next: bool) -> None:  # noqa: FBT001
        first = await wire.response([user("Remember: iron rusts."), ORDER], store=False)
        assert [item["type"] for item in first["output"]] == ["compaction"]
        next_one = await wire.response("::recall iron", previous_response_id=first["id"], store=stores_next)
        assert "iron rusts" in next_one["output"][-1]["content"][0]["text"]

    @pytest.mark.parametrize("how", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
    async def test_an_order_needs_a_model(self, wire: Wire, client: httpx2.Client, how: Any) -> None:
        """Named outright, or by a reference to one that was stored."""
        done = await wire.response([user("Remember: tin is soft."), ORDER])
        listed = client.get(f"{CREATE}/{done['id']}/input_items").json()["data"]
        [order] = [item["id"] for item in listed if item["type"] == ORDER["type"]]
        for last in (ORDER, {"type": "item_reference", "id": order}):
            told = await wire.refused([user("x"), last], **how)
            assert (told["status"], told["error"]["code"]) == (400, "unsupported_parameter")
            assert told["error"]["param"] == "input[1]"

    async def test_a_chain_that_is_compacted_is_remembered_for_ever(self, database_url: str) -> None:
        environment = {**settings(), "HOLDFAST_WEBSOCKET_MEMORY_BYTES": "60000"}
        with LiveServer(database_url, environment=environment) as server:
            async with wired(server) as wire:
                parent = await wire.response("Remember: lead is grey.", store=False)
                state = {"previous_response_id": parent["id"], "store": False}
                for _ in range(15):
                    state["previous_response_id"] = parent["id"]
                    parent = await wire.response(long("x"), context_management=AUTOMATIC, **state)
                state["previous_response_id"] = parent["id"]
                last = await wire.response("::recall lead", **state)
        assert "lead is grey" in last["output"][-1]["content"][0]["text"]

    @pytest.mark.parametrize("stores_next", [True, False], ids=["stored next", "remembered next"])
    async def test_a_call_within_an_item_is_known_to_what_continues_it(
        self,
        wire: Wire,
        client: httpx2.Client,
        stores_next: bool,  # noqa: FBT001
    ) -> None:
        """A stored continuation takes the item in as its own input, and looks into it again."""
        brought = compacted(client, OPEN_CALL)["output"][-1:]
        first = await wire.response([*brought, ANSWERED], store=False)
        second = await wire.response("::recall gold", previous_response_id=first["id"], store=stores_next)
        assert "gold is heavy" in second["output"][-1]["content"][0]["text"]
        if stores_next:
            body = {"model": "offline", "input": "::recall gold", "previous_response_id": second["id"]}
            third = client.post(CREATE, json=body).json()
            assert "gold is heavy" in third["output"][-1]["content"][0]["text"]
