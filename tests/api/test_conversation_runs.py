"""`conversation` on create: what the model is given, and what stays in the conversation."""

from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.api.asking import CREATE, create, frames, invalid, refusal, stream, text
from tests.api.connection import post
from tests.api.conversing import (
    CONVERSATIONS,
    NOBODY,
    add,
    begin,
    called,
    gave,
    give_away,
    hold,
    items_of,
    said,
    texts,
    texts_of,
)
from tests.api.running import absent, attempt, is_free, running, soon, turn
from tests.api.upstream import Upstream
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS, patience

either_form = pytest.mark.parametrize("form", [str, lambda name: {"id": name}], ids=["id", "object"])
streamed = pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])


def given_to(api: httpx2.Client, response: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model saw, oldest first."""
    answer = api.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc", "limit": 100})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


class TestContext:
    def test_the_model_is_given_the_conversation_and_then_the_input(self, api: httpx2.Client) -> None:
        name = begin(api, "one", "two")
        response = turn(api, name, "three")
        said = 'I was given 3 items; the first user message was "one", the last was "three".'
        assert text(response) == said
        assert texts(given_to(api, response)) == ["one", "two", "three"]

    def test_each_turn_sees_all_that_was_said_before_whoever_said_it(self, api: httpx2.Client) -> None:
        name = begin(api)
        first = turn(api, name, "one")
        add(api, name, "two")
        assert texts(given_to(api, turn(api, name, "three"))) == ["one", text(first), "two", "three"]

    def test_an_empty_input_is_enough_where_something_was_said(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        response = turn(api, name, [])
        assert text(response).startswith("I was given 1 item;")
        assert items_of(api, name)[1:] == response["output"]

    def test_an_empty_input_to_an_empty_conversation_is_refused(self, api: httpx2.Client) -> None:
        name = begin(api)
        assert refusal(attempt(api, name, [])).code == "missing_required_parameter"
        assert is_free(api, name)

    def test_instructions_are_for_one_turn_and_no_items(self, api: httpx2.Client) -> None:
        name = begin(api)
        first = turn(api, name, "one", instructions="Be brief.")
        assert first["instructions"] == "Be brief."
        assert texts_of(api, name) == ["one", text(first)]
        second = turn(api, name, "two")
        assert second["instructions"] is None
        assert texts(given_to(api, second)) == ["one", text(first), "two"]

    def test_a_fork_is_gone_on_with_by_itself(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        fork = api.post(f"{CONVERSATIONS}/{name}/fork").json()["id"]
        here, there = turn(api, name, "here"), turn(api, fork, "there")
        assert texts_of(api, name) == ["one", "here", text(here)]
        assert texts_of(api, fork) == ["one", "there", text(there)]
        assert texts(given_to(api, turn(api, fork, "more"))) == ["one", "there", text(there), "more"]

    def test_a_removed_item_is_not_sent(self, api: httpx2.Client) -> None:
        name = begin(api, "one", "two")
        api.delete(f"{CONVERSATIONS}/{name}/items/{items_of(api, name)[0]['id']}")
        assert texts(given_to(api, turn(api, name, "three"))) == ["two", "three"]


class TestAppended:
    @streamed
    def test_input_then_output_with_the_ids_of_the_response(
        self, api: httpx2.Client, *, is_streamed: bool
    ) -> None:
        name = begin(api, "zero")
        given = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "one"}]
        if is_streamed:
            response = frames(stream(api, given, conversation=name))[-1].data["response"]
        else:
            response = turn(api, name, given)
        items = items_of(api, name)
        assert items[1:3] == given_to(api, response)[1:]
        assert items[3:] == response["output"]
        assert [item["status"] for item in items] == ["completed"] * 4
        assert len({item["id"] for item in items}) == 4

    def test_by_the_time_the_official_client_hears_the_end(self, server: LiveServer) -> None:
        with OpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
            conversation = client.conversations.create(metadata={"topic": "demo"})
            with client.responses.create(
                model="offline", input="one", conversation=conversation.id, stream=True
            ) as events:
                end = next(event for event in events if event.type == "response.completed")
                items = client.conversations.items.list(conversation.id, order="asc").data
            assert [item.id for item in items[1:]] == [item.id for item in end.response.output]
            assert end.response.conversation
            assert end.response.conversation.id == conversation.id

    def test_calls_and_their_outputs(self, api: httpx2.Client) -> None:
        name = begin(api)
        first = turn(api, name, "::call f {}", tools=[{"type": "function", "name": "f"}])
        (call,) = first["output"]
        second = turn(api, name, [gave(call["call_id"])])
        assert texts_of(api, name)[1:] == ["function_call", "function_call_output", text(second)]

    def test_an_incomplete_answer_is_part_of_the_conversation(self, api: httpx2.Client) -> None:
        name = begin(api)
        response = turn(api, name, "::words 40 0", max_output_tokens=16)
        assert response["status"] == "incomplete"
        assert items_of(api, name)[1:] == response["output"]
        assert texts(given_to(api, turn(api, name, "more")))[1:] == [text(response), "more"]

    @streamed
    @pytest.mark.parametrize("given", ["::fail server_error", "::drop"])
    def test_nothing_of_a_failure(self, api: httpx2.Client, given: str, *, is_streamed: bool) -> None:
        name = begin(api, "one")
        answer = attempt(api, name, given, stream=is_streamed)
        assert answer.status_code == (200 if is_streamed else 500)
        assert texts_of(api, name) == ["one"]
        assert is_free(api, name)
        if is_streamed:
            failed = frames(answer.content)[-1].data["response"]
            assert (failed["status"], failed["conversation"]) == ("failed", {"id": name})
            assert api.get(f"{CREATE}/{failed['id']}").json() == failed
            assert texts(given_to(api, failed)) == ["one", given]

    async def test_nothing_of_what_its_client_left(self, server: LiveServer, api: httpx2.Client) -> None:
        name = begin(api, "one")
        async with running(server.port, name):
            assert texts_of(api, name) == ["one"]
        await soon(lambda: is_free(api, name))
        assert texts_of(api, name) == ["one", "free"]

    @streamed
    async def test_nothing_of_what_its_client_left_before_it_began(
        self, terse_server: LiveServer, terse: httpx2.Client, upstream: Upstream, *, is_streamed: bool
    ) -> None:
        name = begin(terse, "one")
        upstream.may_begin.clear()
        body = {"model": "wire", "input": "two", "conversation": name, "stream": is_streamed}
        async with post(terse_server.port, body):
            await upstream.asked.wait()
            assert not is_free(terse, name)
        async with patience():
            await upstream.hung_up.wait()
        await soon(lambda: is_free(terse, name))
        assert texts_of(terse, name) == ["one", "free"]

    async def test_what_its_client_left_is_completed_by_setting(
        self, finishing_server: LiveServer, api: httpx2.Client, upstream: Upstream
    ) -> None:
        name = begin(api, "one")
        async with running(finishing_server.port, name, "two", model="wire"):
            pass
        assert not is_free(api, name)
        upstream.may_finish.set()
        await soon(lambda: is_free(api, name))
        assert texts_of(api, name) == ["one", "two", "Hello there", "free"]


class TestNotStored:
    def test_it_reads_and_leaves_nothing(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        response = turn(api, name, "two", store=False)
        assert text(response).startswith("I was given 2 items;")
        assert response["conversation"] == {"id": name}
        assert texts_of(api, name) == ["one"]
        assert api.get(f"{CREATE}/{response['id']}").status_code == 404

    async def test_it_waits_for_nobody(self, api: httpx2.Client, database_url: str) -> None:
        name = begin(api, "one")
        await hold(database_url, name, seconds=60)
        assert text(turn(api, name, "two", store=False)).startswith("I was given 2 items;")
        assert not is_free(api, name)

    async def test_nobody_waits_for_it(self, server: LiveServer, api: httpx2.Client) -> None:
        name = begin(api, "one")
        async with running(server.port, name, store=False):
            assert is_free(api, name)
            turn(api, name, "two")


class TestEcho:
    @either_form
    def test_both_forms_are_the_same_and_told_as_an_object(self, api: httpx2.Client, form: Any) -> None:
        name = begin(api, "one")
        response = create(api, "two", conversation=form(name))
        assert response["conversation"] == {"id": name}
        assert api.get(f"{CREATE}/{response['id']}").json() == response
        assert texts_of(api, name) == ["one", "two", text(response)]

    def test_every_event_of_a_stream_that_has_a_response_tells_it(self, api: httpx2.Client) -> None:
        name = begin(api)
        told = [
            event.data["response"]
            for event in frames(stream(api, conversation=name))
            if "response" in event.data
        ]
        assert [response["conversation"] for response in told] == [{"id": name}] * 3

    def test_null_is_none(self, api: httpx2.Client) -> None:
        assert "conversation" not in create(api, conversation=None)


class TestRefused:
    @either_form
    @pytest.mark.parametrize("name", [NOBODY, "conv_zzz", "conv_", "conv_" + "A" * 32])
    def test_one_that_never_was_is_not_found_nor_made(self, api: httpx2.Client, name: str, form: Any) -> None:
        assert refusal(attempt(api, form(name))) == absent(name)
        assert refusal(attempt(api, form(name), store=False)) == absent(name)
        assert api.get(f"{CONVERSATIONS}/{NOBODY}").status_code == 404

    def test_a_deleted_one_is_not_found(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        api.delete(f"{CONVERSATIONS}/{name}")
        assert refusal(attempt(api, name)) == absent(name)
        assert refusal(attempt(api, name, store=False)) == absent(name)

    async def test_another_tenants_is_not_found(
        self, api: httpx2.Client, database_url: str, caller: Any
    ) -> None:
        name = begin(api)
        add(api, name, said("one", id="msg_of_another"))
        await give_away(database_url, name, caller.tenant_id)
        assert refusal(attempt(api, name)) == absent(name)
        assert refusal(attempt(api, name, store=False)) == absent(name)

    @pytest.mark.parametrize(
        ("value", "param"),
        [("foo", "conversation"), ("", "conversation"), ({"id": "resp_1"}, "conversation.id")],
    )
    def test_an_id_of_another_kind_is_a_bad_request(self, api: httpx2.Client, value: Any, param: str) -> None:
        told = refusal(attempt(api, value))
        assert (told.status, told.param) == (400, param)
        assert "begins with 'conv'" in told.message

    @either_form
    def test_two_histories_exclude_each_other_before_either_is_looked_up(
        self, api: httpx2.Client, form: Any
    ) -> None:
        told = refusal(attempt(api, form(NOBODY), previous_response_id="resp_" + "0" * 32))
        assert (told.status, told.code) == (400, "mutually_exclusive_parameters")

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_an_id_that_is_in_the_conversation_already(self, api: httpx2.Client, *, is_stored: bool) -> None:
        name = begin(api, "one")
        (item,) = items_of(api, name)
        told = refusal(attempt(api, name, [item], store=is_stored))
        assert (told.status, told.param) == (400, "input")
        assert told.message.startswith(f"Duplicate item found with id {item['id']}.")
        assert is_free(api, name)


class TestChaining:
    def test_a_chain_from_a_response_of_the_conversation_adds_nothing_to_it(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        first = turn(api, name, "two")
        second = turn(api, name, "three")
        before = items_of(api, name)
        child = create(api, "aside", previous_response_id=first["id"])
        grandchild = create(api, "more", previous_response_id=child["id"])
        assert not {"conversation"} & (child.keys() | grandchild.keys())
        aside = ["one", "two", text(first), "aside", text(child), "more"]
        assert texts(given_to(api, grandchild)) == aside
        assert items_of(api, name) == before
        last = turn(api, name, "four")
        assert texts(given_to(api, last)) == [*texts(before), "four"]
        assert text(second) in texts(before)

    def test_it_waits_for_nobody_and_survives_the_conversation(self, api: httpx2.Client) -> None:
        name = begin(api, "one")
        first = turn(api, name, "two")
        api.delete(f"{CONVERSATIONS}/{name}")
        child = create(api, "three", previous_response_id=first["id"])
        assert texts(given_to(api, child)) == ["one", "two", text(first), "three"]

    def test_open_calls_are_those_of_the_response_that_is_chained_on(self, api: httpx2.Client) -> None:
        name = begin(api)
        first = turn(api, name, "one")
        turn(api, name, [called("call_x"), gave("call_x")])
        create(api, "fine", previous_response_id=first["id"])
        told = refusal(
            api.post(
                CREATE,
                json={"model": "offline", "input": [gave("call_x")], "previous_response_id": first["id"]},
            )
        )
        assert told == invalid(
            "No tool call found for function call output with call_id call_x.", code=None, param="input"
        )
