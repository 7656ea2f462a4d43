"""What a client sees of compaction: the route, the order in a create, the threshold, and the refusals."""

from collections.abc import Generator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.schemas.compact import PARAMETERS
from app.domain.tenancy import Scope
from tests import grammar
from tests.api.asking import CREATE, create, frames, invalid, refusal, stream, text
from tests.api.bodies import encode, mutated, valid
from tests.api.conftest import client_of
from tests.api.conversing import begin, called, gave, items_of, said
from tests.api.test_validation_shapes import FULL_ITEMS, MINIMAL_ITEMS
from tests.compacting import AUTOMATIC, COMPACT, ORDER, OTHER_KEY, compacted, long, recalled, server_of
from tests.keys import client_with, new_key
from tests.live import LiveServer

FACT = "Remember: the harbour code is 7741."


@pytest.fixture(scope="module")
def server(database_url: str) -> Generator[LiveServer]:
    with server_of(database_url) as live:
        yield live


@pytest.fixture(scope="module")
def api(server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def made(api: httpx2.Client) -> dict[str, Any]:
    """A compacted context with an open call."""
    return compacted(api, [said(FACT), called("call_9")])


def types(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


class TestRoute:
    def test_its_answer_is_the_messages_of_the_user_and_one_item(self, api: httpx2.Client) -> None:
        given = [said(FACT, id="msg_mine"), {"role": "assistant", "content": "Aye."}, said("And now?")]
        made = compacted(api, given)
        assert made.keys() == {"id", "object", "created_at", "output", "usage"}
        assert (made["object"], types(made)) == ("response.compaction", ["message", "message", "compaction"])
        first, _, item = made["output"]
        assert (first["id"], first["content"]) == ("msg_mine", [{"type": "input_text", "text": FACT}])
        assert item.keys() == {"id", "type", "encrypted_content"}
        assert FACT not in item["encrypted_content"]
        assert made["usage"]["total_tokens"] > made["usage"]["output_tokens"] > 0

    def test_its_output_is_the_next_input(self, api: httpx2.Client) -> None:
        made = compacted(api, [said(FACT), {"role": "assistant", "content": "Decision: we sail at dawn."}])
        assert recalled(api, "harbour", made["output"]) == FACT
        assert recalled(api, "dawn", made["output"]) == "Decision: we sail at dawn."
        assert recalled(api, "dawn", made["output"][-1:], store=False) == "Decision: we sail at dawn."

    def test_it_reads_a_chain_and_stores_nothing(self, api: httpx2.Client) -> None:
        parent = create(api, FACT)
        before = api.get(CREATE).json()["first_id"]
        made = compacted(api, previous_response_id=parent["id"])
        assert types(made) == ["message", "compaction"]
        assert api.get(CREATE).json()["first_id"] == before
        assert refusal(api.get(f"{CREATE}/{made['id']}")).status == 404
        body = {"model": "offline", "input": "x", "previous_response_id": made["id"]}
        assert refusal(api.post(CREATE, json=body)).code == "previous_response_not_found"

    def test_a_compacted_context_is_compacted_again(self, api: httpx2.Client) -> None:
        first = compacted(api, [said(FACT), {"role": "assistant", "content": "Decision: north."}])
        second = compacted(api, [*first["output"], {"role": "assistant", "content": "Decision: south."}])
        assert types(second) == ["message", "compaction"]
        assert recalled(api, "north", second["output"]) == "Decision: north."
        assert recalled(api, "south", second["output"]) == "Decision: south."

    def test_open_calls_and_their_ids_survive(self, api: httpx2.Client) -> None:
        made = compacted(api, [said("Call f."), called("call_old"), gave("call_old"), called("call_7")])
        answer = create(api, [*made["output"], gave("call_7", output="forty-two")])
        assert 'tool output: "forty-two"' in text(answer)
        bodies = {
            "No tool output found for function call call_7.": [*made["output"], said("Go on.")],
            "No tool call found for function call output with call_id call_old.": [
                *made["output"], gave("call_7"), gave("call_old"),
            ],
        }  # fmt: skip
        for words, sent in bodies.items():
            told = refusal(api.post(CREATE, json={"model": "offline", "input": sent}))
            assert told == invalid(words, code=None, param="input")

    def test_an_order_at_the_end_changes_nothing(self, api: httpx2.Client) -> None:
        assert types(compacted(api, [said("a"), ORDER])) == ["message", "compaction"]
        assert types(compacted(api, "a")) == ["message", "compaction"]

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"input": "a"}, "missing_required_parameter", "model"),
            ({"model": None, "input": "a"}, "invalid_type", "model"),
            ({"model": "nobody", "input": "a"}, "model_not_found", "model"),
            ({"model": "offline"}, "missing_required_parameter", None),
            ({"model": "offline", "input": []}, "missing_required_parameter", None),
            ({"model": "offline", "input": [ORDER]}, "missing_required_parameter", None),
            ({"model": "offline", "input": [ORDER, said("a")]}, "invalid_value", "input[0]"),
            ({"model": "offline", "input": "a", "store": True}, "unknown_parameter", "store"),
            ({"model": "offline", "input": "a", "prompt_cache_key": "x" * 65}, "string_above_max_length", "prompt_cache_key"),
            ({"model": "offline", "input": "a", "image": {"context_compression": "enabled"}}, "unsupported_parameter", "image"),
            ({"model": "offline", "previous_response_id": f"resp_{'0' * 32}"}, "previous_response_not_found", "previous_response_id"),
        ],
    )  # fmt: skip
    def test_it_refuses(self, api: httpx2.Client, body: Any, code: str, param: str | None) -> None:
        told = refusal(api.post(COMPACT, json=body))
        assert (told.status, told.code, told.param) == (400, code, param)

    def test_it_cannot_be_asked_twice_with_one_key(self, api: httpx2.Client) -> None:
        headers = {"Idempotency-Key": "once"}
        told = refusal(api.post(COMPACT, json={"model": "offline", "input": "a"}, headers=headers))
        assert (told.code, told.param) == ("unsupported_parameter", "Idempotency-Key")

    def test_it_is_recorded(self, api: httpx2.Client) -> None:
        made = compacted(api, "a")
        records = api.get("/v1/audit/records", params={"limit": 100, "order": "desc"}).json()["data"]
        assert ("response.compacted", made["id"]) in [(each["action"], each["subject"]) for each in records]

    def test_what_it_keeps_has_to_fit(self, api: httpx2.Client) -> None:
        given = [said(long("a", 2_500)), said(long("b", 2_500))]
        told = refusal(api.post(COMPACT, json={"model": "offline", "input": given}))
        assert (told.code, told.param) == ("context_length_exceeded", "input")
        assert "even when it is compacted" in told.message


class TestOrdered:
    def test_the_answer_is_the_item_alone(self, api: httpx2.Client) -> None:
        parent = create(api, FACT)
        made = create(api, [said("b"), ORDER], previous_response_id=parent["id"])
        assert (made["status"], types(made)) == ("completed", ["compaction"])
        child = create(api, "::recall harbour", previous_response_id=made["id"])
        assert text(child) == FACT
        # Both messages, the summary, and the question.
        assert "4 items" in text(create(api, "How many?", previous_response_id=made["id"]))

    def test_open_calls_stay_open_behind_it(self, api: httpx2.Client) -> None:
        parent = create(api, '::call f {"a":1}')
        [call] = [item for item in parent["output"] if item["type"] == "function_call"]
        made = create(api, [ORDER], previous_response_id=parent["id"])
        state = {"model": "offline", "previous_response_id": made["id"]}
        told = refusal(api.post(CREATE, json={**state, "input": "Go on."}))
        assert told.message == f"No tool output found for function call {call['call_id']}."
        child = create(api, [gave(call["call_id"], output="seven")], previous_response_id=made["id"])
        assert 'tool output: "seven"' in text(child)

    def test_a_reference_to_its_item_is_the_item(self, api: httpx2.Client) -> None:
        """The calls in it are open, whoever asks."""
        [item] = create(api, [said(FACT), called("call_8"), ORDER])["output"]
        given = [{"type": "item_reference", "id": item["id"]}, gave("call_8", output="eight")]
        assert 'tool output: "eight"' in text(create(api, given))
        assert types(compacted(api, given)) == ["message", "compaction"]
        body = {"model": "offline", "input": given}
        assert api.post("/v1/responses/input_tokens", json=body).status_code == 200
        told = refusal(api.post(CREATE, json={**body, "input": given[:1]}))
        assert told.message == "No tool output found for function call call_8."

    def test_what_the_route_made_can_be_referred_to_once_it_was_stored(self, api: httpx2.Client) -> None:
        """The route stores nothing, so its ids name no row; the create that is sent them has them."""
        *_, item = compacted(api, [said(FACT), said("And more.")])["output"]
        create(api, [item, said("Hello")])
        again = create(api, [{"type": "item_reference", "id": item["id"]}, said("::recall harbour")])
        assert text(again) == FACT


class TestAutomatic:
    def test_the_item_comes_first_and_the_answer_behind_it(self, api: httpx2.Client) -> None:
        parent = create(api, long(FACT))
        made = create(
            api, "::recall harbour", previous_response_id=parent["id"], context_management=AUTOMATIC
        )
        assert types(made) == ["compaction", "message"]
        assert text(made) == FACT
        read = api.get(f"{CREATE}/{made['id']}").json()
        assert read == made
        assert "context_management" not in made

    def test_below_the_threshold_nothing_happens(self, api: httpx2.Client) -> None:
        assert types(create(api, FACT, context_management=AUTOMATIC)) == ["message"]

    def test_usage_has_both(self, api: httpx2.Client) -> None:
        parent = create(api, long(FACT))
        plain = create(api, "b", previous_response_id=parent["id"])
        made = create(api, "b", previous_response_id=parent["id"], context_management=AUTOMATIC)
        used = made["usage"]
        assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]
        assert used["input_tokens"] > plain["usage"]["input_tokens"]

    def test_a_stream_keeps_the_grammar(self, api: httpx2.Client) -> None:
        parent = create(api, long(FACT))
        state = {"previous_response_id": parent["id"], "context_management": AUTOMATIC}
        heard = [frame.data for frame in frames(stream(api, "::recall harbour", **state))]
        whole = grammar.check(heard)
        assert [item["type"] for item in whole["output"]] == ["compaction", "message"]
        kinds = [event["type"] for event in heard]
        added = kinds.index("response.output_item.added")
        assert kinds[added : added + 3] == [
            "response.output_item.added", "response.compaction.compacting", "response.output_item.done",
        ]  # fmt: skip
        assert create(api, "x", previous_response_id=heard[-1]["response"]["id"])["status"] == "completed"

    def test_a_conversation_goes_on_with_it(self, api: httpx2.Client) -> None:
        name = begin(api, long(FACT))
        made = create(api, "b", conversation=name, context_management=AUTOMATIC)
        assert types(made) == ["compaction", "message"]
        assert [item["type"] for item in items_of(api, name)] == [
            "message",
            "message",
            "compaction",
            "message",
        ]
        assert recalled(api, "harbour", conversation=name) == FACT

    def test_without_a_store_the_client_keeps_the_item(self, api: httpx2.Client) -> None:
        kept = [said(long(FACT)), {"role": "assistant", "content": "Aye."}, said("b")]
        made = create(api, kept, store=False, context_management=AUTOMATIC)
        assert types(made) == ["compaction", "message"]
        for history in ([*kept, *made["output"]], made["output"]):
            assert recalled(api, "harbour", history, store=False) == FACT

    def test_what_is_new_has_to_fit(self, api: httpx2.Client) -> None:
        body = {"model": "offline", "input": long("a", 5_000), "context_management": AUTOMATIC}
        assert refusal(api.post(CREATE, json=body)).code == "context_length_exceeded"

    def test_it_goes_on_behind_it_in_any_length(self, api: httpx2.Client) -> None:
        """The window is compared with what is sent, and not with what was compacted."""
        last = create(api, long(FACT, 3_000))["id"]
        for _ in range(4):
            last = create(api, long("x", 1_500), previous_response_id=last, context_management=AUTOMATIC)[
                "id"
            ]
        assert recalled(api, "harbour", previous_response_id=last, context_management=AUTOMATIC) == FACT
        plain = create(api, "::recall harbour", previous_response_id=last)
        assert text(plain) == FACT

    def test_truncation_does_not_take_away_what_is_to_be_summed_up(self, api: httpx2.Client) -> None:
        last = create(api, long(FACT))["id"]
        for _ in range(5):
            last = create(api, long("x"), previous_response_id=last, truncation="auto")["id"]
        state = {"previous_response_id": last, "truncation": "auto"}
        assert recalled(api, "harbour", **state) != FACT
        assert recalled(api, "harbour", **state, context_management=AUTOMATIC) == FACT


class TestCounted:
    def test_what_would_be_sent_is_counted_and_shown(self, api: httpx2.Client) -> None:
        parent = create(api, long(FACT))
        made = create(api, "b", previous_response_id=parent["id"], context_management=AUTOMATIC)
        state = {"previous_response_id": made["id"], "input": "How much?"}
        used = create(api, state["input"], previous_response_id=made["id"])["usage"]
        counted = api.post("/v1/responses/input_tokens", json={"model": "offline", **state}).json()
        assert abs(counted["input_tokens"] - used["input_tokens"]) <= 2
        shown = api.get(f"{CREATE}/{made['id']}/context").json()
        assert [item["type"] for item in shown["data"]] == ["compaction", "message"]

    def test_what_the_client_keeps_is_counted_alike(self, api: httpx2.Client, made: dict[str, Any]) -> None:
        given = [*made["output"], gave("call_9")]
        used = create(api, given)["usage"]["input_tokens"]
        counted = api.post("/v1/responses/input_tokens", json={"input": given}).json()
        assert abs(counted["input_tokens"] - used) <= 2
        given[-2] = {**given[-2], "encrypted_content": "hfc1.AAAA"}
        told = refusal(api.post("/v1/responses/input_tokens", json={"input": given}))
        assert told.code == "invalid_encrypted_content"


class TestRefused:
    @pytest.mark.parametrize("content", ["gAAAAABpM0Yj", "hfc1.AAAA", "", "é"])
    def test_garbage(self, api: httpx2.Client, content: str) -> None:
        given = [said("a"), {"type": "compaction", "encrypted_content": content}, said("b")]
        for path in (CREATE, COMPACT):
            told = refusal(api.post(path, json={"model": "offline", "input": given}))
            assert (told.status, told.code) == (400, "invalid_encrypted_content")
            assert told.param == "input[1].encrypted_content"

    def test_one_of_another_server(self, api: httpx2.Client, database_url: str) -> None:
        made = compacted(api, "a")
        with server_of(database_url, key=OTHER_KEY) as other, client_of(other) as elsewhere:
            told = refusal(elsewhere.post(CREATE, json={"model": "offline", "input": made["output"]}))
            assert told.code == "invalid_encrypted_content"
        with server_of(database_url) as same, client_of(same) as elsewhere:
            assert create(elsewhere, [*made["output"], said("b")])["status"] == "completed"

    def test_one_in_a_conversation_is_named(self, api: httpx2.Client) -> None:
        name = begin(api, "a")
        item = {"type": "compaction", "id": "cmp_theirs", "encrypted_content": "gAAA"}
        assert api.post(f"/v1/conversations/{name}/items", json={"items": [item]}).status_code == 200
        told = refusal(api.post(CREATE, json={"model": "offline", "input": "b", "conversation": name}))
        assert (told.status, told.code) == (400, "invalid_encrypted_content")
        assert "cmp_theirs" in told.message

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"context_management": AUTOMATIC}, "context_management"),
            ({"input": [said("a"), ORDER]}, "input[1].type"),
        ],
    )
    def test_without_a_key_it_cannot_be_asked_for(self, database_url: str, more: Any, param: str) -> None:
        with server_of(database_url, key=None) as keyless, client_of(keyless) as client:
            told = refusal(client.post(CREATE, json={"model": "offline", "input": "a", **more}))
            assert (told.status, told.code, told.param) == (400, "unsupported_parameter", param)
            assert "seal_key" in told.message
            assert refusal(client.post(COMPACT, json={"model": "offline", "input": "a"})).status == 400


ITEMS = st.lists(
    st.sampled_from([*MINIMAL_ITEMS, *FULL_ITEMS, ORDER, said("a"), called(), gave()]), max_size=6
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=ITEMS, body=valid() | mutated(), path=st.sampled_from([CREATE, COMPACT]), has_item=st.booleans())
def test_nothing_is_an_error_of_ours(
    api: httpx2.Client, made: dict[str, Any], items: Any, body: Any, path: str, *, has_item: bool
) -> None:
    """Whatever stands beside a compaction item, or is to be compacted."""
    whole = {**body, "model": "offline", "input": [*(made["output"] if has_item else ()), *items]}
    for each in (body, whole):
        known = each if path == CREATE else {name: each[name] for name in each if name in PARAMETERS}
        answer = api.post(path, content=encode(known), headers={"content-type": "application/json"})
        assert answer.status_code < 500, answer.text


async def test_one_of_another_tenant(quiet_database_url: str) -> None:
    keys = {name: await new_key(quiet_database_url, name, Scope.WRITE) for name in ("ours", "theirs")}
    with server_of(quiet_database_url) as live:
        with client_with(live, keys["theirs"]) as theirs:
            made = compacted(theirs, FACT)
            assert recalled(theirs, "harbour", made["output"]) == FACT
        with client_with(live, keys["ours"]) as ours:
            told = refusal(ours.post(CREATE, json={"model": "offline", "input": made["output"]}))
            assert told.code == "invalid_encrypted_content"
