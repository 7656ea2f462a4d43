"""What a next turn would be given, shown and counted, against what it is given then."""

import re
from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest

from app import ids
from app.domain.tenancy import Caller
from app.store.db import Database
from tests.api.asking import CREATE, MISSING, create, invalid, refusal, text
from tests.api.conftest import client_of
from tests.api.conversing import (
    CONVERSATIONS,
    NOBODY,
    add,
    begin,
    called,
    gave,
    hold,
    items_of,
    remove,
    said,
    texts,
    texts_of,
)
from tests.api.test_openapi import check
from tests.background import enqueued
from tests.live import LiveServer

COUNT = f"{CREATE}/input_tokens"
WINDOW = 600
"""Tokens of the model `small`: room for a few turns."""

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
IMAGE = {"type": "input_image", "image_url": "https://example.com/a.png"}


@pytest.fixture(scope="module")
def narrow_server(database_url: str) -> Generator[LiveServer]:
    """Has a model whose context window is known beside one that takes anything."""
    offline = {"name": "offline", "protocol": "offline", "models": ["offline"]}
    small = {**offline, "name": "small", "models": ["small"], "context_window_tokens": WINDOW}
    aliased = {**small, "name": "aliased", "models": ["known"], "aliases": {"nick": "unserved"}}
    environment = {"HOLDFAST_UPSTREAMS": orjson.dumps([offline, small, aliased]).decode()}
    with LiveServer(database_url, environment=environment) as live:
        yield live


@pytest.fixture(scope="module")
def narrow(narrow_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(narrow_server) as client:
        yield client


@pytest.fixture
def served() -> Caller:
    """The live server's tenant. It has no broker itself, so what is queued is queued beside it."""
    return Caller()


def context(api: httpx2.Client, name: str, **query: Any) -> dict[str, Any]:
    """The context of a response or a conversation."""
    base = CREATE if name.startswith("resp") else CONVERSATIONS
    answer = api.get(f"{base}/{name}/context", params=query)
    assert answer.status_code == 200, answer.text
    check(answer.json(), "Context")
    return answer.json()


def count(api: httpx2.Client, **body: Any) -> int:
    answer = api.post(COUNT, json=body)
    assert answer.status_code == 200, answer.text
    counted = answer.json()
    assert counted == {"object": "response.input_tokens", "input_tokens": counted["input_tokens"]}
    return counted["input_tokens"]


def chain(api: httpx2.Client, turns: int, **params: Any) -> list[dict[str, Any]]:
    """Responses of which each continues the one before."""
    made = [create(api, "turn 0", **params)]
    while len(made) < turns:
        made.append(create(api, f"turn {len(made)}", previous_response_id=made[-1]["id"], **params))
    return made


def given(response: dict[str, Any]) -> int:
    """How many items the offline model says it was given."""
    found = re.search(r"I was given (\d+) items?", text(response))
    assert found
    return int(found[1])


def whole_of(api: httpx2.Client, response: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a response was given, and what it answered."""
    listed = api.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc", "limit": 100})
    return [*listed.json()["data"], *response["output"]]


class TestShown:
    def test_it_is_what_the_next_turn_is_given(self, api: httpx2.Client) -> None:
        """The next response is given exactly these items and its own input."""
        parent = chain(api, 3)[-1]
        shown = context(api, parent["id"])
        child = create(api, "next", previous_response_id=parent["id"])
        assert shown["data"] == whole_of(api, child)[:-2]
        assert given(child) == len(shown["data"]) + 1

    def test_all_its_keys_are_always_there(self, api: httpx2.Client) -> None:
        """A context that needs nothing has the plain value of each."""
        response = create(api)
        shown = context(api, response["id"])
        assert shown == {
            "object": "context",
            "data": whole_of(api, response),
            "input_tokens": shown["input_tokens"],
            "input_tokens_are_estimated": True,
            "context_window_tokens": None,
            "is_truncated": False,
            "exceeds_context_window": False,
            "open_tool_calls": [],
        }

    def test_a_conversation_s_items_are(self, api: httpx2.Client) -> None:
        """A conversation shows what stands in it now: what was added, made, and not taken out."""
        name = begin(api, "a", "b")
        response = create(api, "c", conversation=name)
        remove(api, name, items_of(api, name)[0])
        shown = context(api, name)
        assert shown["data"] == items_of(api, name)
        assert texts(shown["data"]) == ["b", "c", text(response)]

    def test_an_empty_conversation_has_no_context(self, api: httpx2.Client) -> None:
        """Nothing is there, and nothing is counted."""
        shown = context(api, begin(api), truncation="auto")
        assert (shown["data"], shown["input_tokens"]) == ([], 0)

    def test_open_tool_calls_are_named(self, api: httpx2.Client) -> None:
        """The calls that the next input has to answer are named in their order, until they are answered."""
        name = begin(api, "a")
        add(api, name, called("call_1"), called("call_2"))
        both = [{"call_id": f"call_{n}", "type": "function_call"} for n in (1, 2)]
        assert context(api, name)["open_tool_calls"] == both
        add(api, name, gave("call_1"))
        assert context(api, name)["open_tool_calls"] == both[1:]

    def test_a_response_s_open_calls_are_named(self, api: httpx2.Client) -> None:
        """A response that called tools shows their calls as open, whoever has answered them elsewhere."""
        response = create(api, "::call f {}", tools=[TOOL])
        (call,) = response["output"]
        opened = [{"call_id": call["call_id"], "type": "function_call"}]
        create(api, [gave(call["call_id"])], previous_response_id=response["id"])
        assert context(api, response["id"])["open_tool_calls"] == opened

    def test_gated_fields_are_shown_to_those_who_ask(self, api: httpx2.Client) -> None:
        """`include` opens the same gates as elsewhere, and the count does not depend on it."""
        response = create(api, [said("", content=[IMAGE])])
        closed = context(api, response["id"])
        opened = context(api, response["id"], include="message.input_image.image_url")
        urls = [shown["data"][0]["content"][0]["image_url"] for shown in (closed, opened)]
        assert urls == [None, IMAGE["image_url"]]
        assert closed["input_tokens"] == opened["input_tokens"]

    async def test_a_running_response_is_no_hindrance(self, api: httpx2.Client, database_url: str) -> None:
        """What only looks waits for nobody."""
        name = begin(api, "a")
        await hold(database_url, name, seconds=60)
        assert texts(context(api, name)["data"]) == ["a"]
        assert count(api, conversation=name) == context(api, name)["input_tokens"]

    def test_looking_changes_nothing(self, api: httpx2.Client) -> None:
        """Neither route creates anything or leaves the conversation locked."""
        name = begin(api, "a")
        newest = api.get(CREATE, params={"limit": 1}).json()["data"]
        context(api, name, model="offline", truncation="auto")
        count(api, conversation=name, input="b", model="offline")
        assert api.get(CREATE, params={"limit": 1}).json()["data"] == newest
        assert texts_of(api, name) == ["a"]
        create(api, "c", conversation=name)


class TestWindow:
    def test_it_is_that_of_the_response_s_model_or_of_the_one_asked_for(self, narrow: httpx2.Client) -> None:
        """A response knows its model; a conversation has none."""
        response, name = create(narrow, model="small"), begin(narrow, "a")
        assert context(narrow, response["id"])["context_window_tokens"] == WINDOW
        assert context(narrow, response["id"], model="offline")["context_window_tokens"] is None
        assert context(narrow, name)["context_window_tokens"] is None
        assert context(narrow, name, model="small")["context_window_tokens"] == WINDOW

    def test_a_model_that_nobody_serves_by_its_own_name_has_none(self, narrow: httpx2.Client) -> None:
        """A response whose model resolved to an unserved name is shown, not refused."""
        response = create(narrow, model="nick")
        assert response["model"] == "unserved"
        assert context(narrow, response["id"])["context_window_tokens"] is None
        assert context(narrow, response["id"], model="nick")["context_window_tokens"] == WINDOW

    @pytest.mark.parametrize("is_conversation", [False, True])
    def test_auto_shows_as_many_whole_turns_as_fit(
        self, narrow: httpx2.Client, *, is_conversation: bool
    ) -> None:
        """The newest turns are shown, beginning at a message of the user, and one more would not fit."""
        state: dict[str, Any] = {"conversation": begin(narrow)} if is_conversation else {}
        made = [create(narrow, f"turn {n}", **state) for n in range(9)] if state else chain(narrow, 9)
        name = state.get("conversation") or made[-1]["id"]
        whole = context(narrow, name)["data"]
        shown = context(narrow, name, model="small", truncation="auto")
        left_out = len(whole) - len(shown["data"])
        assert 0 < left_out < len(whole)
        assert shown["data"] == whole[left_out:]
        assert shown["data"][0]["role"] == "user"
        assert (shown["is_truncated"], shown["exceeds_context_window"]) == (True, False)
        turn = count(narrow, input=whole[left_out - 2 : left_out])
        assert shown["input_tokens"] <= WINDOW < shown["input_tokens"] + turn

    def test_auto_leaves_alone_what_fits(self, narrow: httpx2.Client) -> None:
        """Nothing is cut where there is room."""
        response = create(narrow, model="small")
        shown = context(narrow, response["id"], truncation="auto")
        assert shown == context(narrow, response["id"])
        assert not shown["is_truncated"]

    @pytest.mark.parametrize("truncation", ["auto", "disabled"])
    def test_the_window_may_be_filled_to_its_last_token(self, narrow: httpx2.Client, truncation: str) -> None:
        """What is exactly as long as the window is neither too long nor cut; one token more is."""
        empty = context(narrow, begin(narrow, ""))["input_tokens"]
        full, over = (begin(narrow, "x" * 4 * (WINDOW - empty + more)) for more in (0, 1))
        verdicts = [
            (shown["is_truncated"], shown["exceeds_context_window"])
            for name in (full, over)
            for shown in [context(narrow, name, model="small", truncation=truncation)]
        ]
        assert verdicts == [(False, False), (truncation == "auto", truncation == "disabled")]

    def test_what_is_too_long_is_shown_and_said(self, narrow: httpx2.Client) -> None:
        """A context that `create` would refuse is shown whole, with the reason."""
        parent = chain(narrow, 9)[-1]
        shown = context(narrow, parent["id"], model="small")
        assert shown["data"] == context(narrow, parent["id"])["data"]
        assert (shown["is_truncated"], shown["exceeds_context_window"]) == (False, True)
        assert shown["input_tokens"] > WINDOW
        body = {"model": "small", "input": [], "previous_response_id": parent["id"]}
        assert refusal(narrow.post(CREATE, json=body)).code == "context_length_exceeded"

    def test_what_an_open_call_needs_cannot_be_left_out(self, narrow: httpx2.Client) -> None:
        """Where the outputs to come would be parted from their call, all is shown as too long."""
        name = begin(narrow, "oldest")
        add(narrow, name, "old")
        add(narrow, name, "x" * 2500, called())
        shown = context(narrow, name, model="small", truncation="auto")
        assert texts(shown["data"]) == ["oldest", "old", "x" * 2500, "function_call"]
        assert (shown["is_truncated"], shown["exceeds_context_window"]) == (False, True)
        assert shown["open_tool_calls"]
        body = {"model": "small", "input": [gave()], "conversation": name, "truncation": "auto"}
        assert refusal(narrow.post(CREATE, json=body)).code == "context_length_exceeded"

    def test_before_a_message_all_may_go(self, narrow: httpx2.Client) -> None:
        """A last turn that is too long alone is left out, as it is when a message follows."""
        name = begin(narrow, "x" * 2500)
        add(narrow, name, {"role": "assistant", "content": "y"})
        shown = context(narrow, name, model="small", truncation="auto")
        assert (shown["data"], shown["is_truncated"], shown["input_tokens"]) == ([], True, 0)
        child = create(narrow, "z", model="small", conversation=name, truncation="auto")
        assert given(child) == 1

    def test_auto_counts_what_would_be_sent(self, narrow: httpx2.Client) -> None:
        """With `auto` the window bounds the count; without it, what is too long is counted too."""
        body = {"model": "small", "previous_response_id": chain(narrow, 9)[-1]["id"]}
        counted = count(narrow, truncation="auto", input="hi", **body)
        used = create(narrow, truncation="auto", **body)["usage"]
        assert abs(counted - used["input_tokens"]) <= 6
        assert counted <= WINDOW < count(narrow, input="hi", **body)


class TestRefused:
    async def test_what_has_not_ended_or_was_cancelled(
        self, api: httpx2.Client, db: Database, served: Caller
    ) -> None:
        """A response that is there but cannot be continued is refused with its state."""
        draft = await enqueued(db, served)
        path = f"{CREATE}/{ids.response_id(draft.id)}"
        self.check(api, path, "its status is 'queued'")
        assert api.post(f"{path}/cancel").status_code == 200
        self.check(api, path, "its status is 'cancelled'")

    async def test_what_is_kept_for_polling_alone(
        self, api: httpx2.Client, db: Database, served: Caller
    ) -> None:
        """Whatever its state, it is not stored."""
        draft = await enqueued(db, served, store=False)
        path = f"{CREATE}/{ids.response_id(draft.id)}"
        self.check(api, path, "it is not stored, only kept for polling")
        assert api.post(f"{path}/cancel").status_code == 200

    def test_what_failed(self, api: httpx2.Client) -> None:
        """A failed response has no next turn."""
        assert api.post(CREATE, json={"model": "offline", "input": "::fail server_error"}).status_code >= 500
        failed = next(row for row in api.get(CREATE).json()["data"] if row["status"] == "failed")
        self.check(api, f"{CREATE}/{failed['id']}", "its status is 'failed'")

    def check(self, api: httpx2.Client, path: str, reason: str) -> None:
        words = f"Response with id '{path.rpartition('/')[2]}' cannot be continued: {reason}."
        code = "previous_response_not_found"
        assert refusal(api.get(f"{path}/context")) == invalid(words, code=code, param="response_id")

    def test_what_is_not_there(self, api: httpx2.Client) -> None:
        """Absent, deleted and unstored are one: not found."""
        deleted, unstored = create(api)["id"], create(api, store=False)["id"]
        api.delete(f"{CREATE}/{deleted}")
        for name in (MISSING, deleted, unstored, "resp_1"):
            words = f"Response with id '{name}' not found."
            answer = api.get(f"{CREATE}/{name}/context")
            assert refusal(answer) == invalid(words, code=None, param=None, status=404)
        for name in (NOBODY, "conv_1"):
            words = f"Conversation with id '{name}' not found."
            answer = api.get(f"{CONVERSATIONS}/{name}/context")
            assert refusal(answer) == invalid(words, code=None, param=None, status=404)

    @pytest.mark.parametrize(
        ("base", "param", "prefix"),
        [(CREATE, "response_id", "resp"), (CONVERSATIONS, "conversation_id", "conv")],
    )
    def test_what_is_no_id(self, api: httpx2.Client, base: str, param: str, prefix: str) -> None:
        """An id of something else is told apart from one that is missing."""
        words = f"Invalid '{param}': 'msg_1'. Expected an ID that begins with '{prefix}'."
        assert refusal(api.get(f"{base}/msg_1/context")) == invalid(words, param=param)

    def test_a_model_that_nobody_serves(self, api: httpx2.Client) -> None:
        """The model of a next turn must be served, as for the turn itself."""
        expected = invalid(
            "The requested model 'nobody' does not exist.", code="model_not_found", param="model"
        )
        for path in (f"{CREATE}/{create(api)['id']}", f"{CONVERSATIONS}/{begin(api)}"):
            assert refusal(api.get(f"{path}/context", params={"model": "nobody"})) == expected
        assert refusal(api.post(COUNT, json={"model": "nobody"})) == expected

    def test_a_truncation_that_there_is_not(self, api: httpx2.Client) -> None:
        """The two ways to truncate are named."""
        answer = api.get(f"{CONVERSATIONS}/{begin(api)}/context", params={"truncation": "some"})
        words = "Invalid value: 'some'. Supported values are: 'auto' and 'disabled'."
        assert refusal(answer) == invalid(words, param="truncation")
