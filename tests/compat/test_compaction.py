"""The official client compacts, by order and automatically, and what must survive does."""

from collections.abc import Generator
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from app.domain.tenancy import Scope
from tests.compacting import AUTOMATIC, WINDOW, long, server_of, settings, wire
from tests.keys import new_key
from tests.live import LiveServer
from tests.recalling import Recalling, recalling
from tests.waiting import PATIENCE_SECONDS, wait_until
from tests.workers.processes import LiveWorker, broker_running

FACTS = {
    "harbour": "Remember: the harbour code is 7741-KESTREL.",
    "Ada": "My sister Ada lives in Tromsø, on Storgata 12.",
    "database": "Decision: the database is Postgres, because of its row locks.",
}
CALL: Any = {"type": "function_call", "call_id": "call_7", "name": "look", "arguments": '{"at":"sea"}'}
TURNS = 200


@pytest.fixture(scope="module")
def upstream() -> Generator[Recalling]:
    with recalling() as listening:
        yield listening


@pytest.fixture(scope="module")
def api(database_url: str, upstream: Recalling) -> Generator[LiveServer]:
    spoken = {"name": "chat", "protocol": "chat_completions", "models": ["chat"]}
    with server_of(database_url, wire(upstream.url), wire(upstream.url, **spoken)) as live:
        yield live


@pytest.fixture
def client(api: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=api.base_url, api_key="any", timeout=PATIENCE_SECONDS, max_retries=0) as client:
        yield client


def planted(turn: int) -> str:
    facts = list(FACTS.values())
    if turn < len(facts):
        return facts[turn]
    return f"Please tell me more about matter number {turn}, in your own words"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("model", ["wire", "chat"])
@pytest.mark.parametrize("kept_by", ["chain", "conversation", "client"])
def test_two_hundred_turns_in_a_small_window(
    client: OpenAI, upstream: Recalling, kept_by: str, model: str
) -> None:
    """Facts of the first turns are answered at the end, and what is sent upstream stays bounded."""
    upstream.sizes.clear()
    state: dict[str, Any] = (
        {"conversation": client.conversations.create().id} if kept_by == "conversation" else {}
    )
    history, compactions = list[Any](), 0
    for said in [*map(planted, range(TURNS)), *(f"::recall {words}" for words in FACTS)]:
        history.append({"role": "user", "content": said})
        response = client.responses.create(
            model=model,
            input=history if kept_by == "client" else said,
            store=kept_by != "client",
            context_management=AUTOMATIC,
            **state,
        )
        compactions += sum(item.type == "compaction" for item in response.output)
        made: Any = response.to_dict()["output"]
        history = from_newest([*history, *made])
        if kept_by == "chain":
            state = {"previous_response_id": response.id}
        if said.startswith("::recall"):
            assert response.output_text == FACTS[said.split()[1]]
    assert compactions > TURNS // 50
    assert len(upstream.sizes) == TURNS + len(FACTS) + compactions
    # By the estimate of four bytes a token, with room for what stands beside the items.
    assert max(upstream.sizes) < 4 * WINDOW
    assert sum(upstream.sizes) / len(upstream.sizes) < 4 * AUTOMATIC[0]["compact_threshold"] + 1_000


def from_newest(items: list[Any]) -> list[Any]:
    """What a client need keep (surface notes §12.3)."""
    places = [place for place, item in enumerate(items) if item.get("type") == "compaction"]
    return items[places[-1] :] if places else items


def test_what_was_compacted_is_not_sent_again(client: OpenAI, upstream: Recalling) -> None:
    """Nor is the item itself: the upstream could not read it."""
    first = client.responses.create(model="wire", input=long(FACTS["harbour"]))
    made = client.responses.create(
        model="wire", input="Go on.", previous_response_id=first.id, context_management=AUTOMATIC
    )
    for _ in range(2):
        made = client.responses.create(model="wire", input="::recall harbour", previous_response_id=made.id)
        sent = upstream.requests[-1]["input"]
        assert made.output_text == FACTS["harbour"]
        assert {item["type"] for item in sent} == {"message"}
        # The long message was the user's last when it was compacted, but a newer one was being answered.
        assert not any("lorem" in part["text"] for item in sent for part in item["content"])


def test_an_unchanged_output_is_the_next_input(client: OpenAI) -> None:
    given: list[Any] = [{"role": "user", "content": text} for text in FACTS.values()]
    given.insert(1, {"role": "assistant", "content": "Decision: we sail at dawn."})
    made = client.responses.compact(model="offline", input=given)
    assert [item.type for item in made.output] == ["message", "message", "message", "compaction"]
    assert made.object == "response.compaction"
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    output: Any = made.to_dict(warnings=False)["output"]
    question: Any = {"role": "user", "content": "::recall dawn"}
    answer = client.responses.create(model="offline", input=[*output, question])
    assert answer.output_text == "Decision: we sail at dawn."


def test_a_compacted_context_is_no_response(client: OpenAI) -> None:
    made = client.responses.compact(model="offline", input="Hello")
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(BadRequestError, match="not found"):
        client.responses.create(model="offline", input="x", previous_response_id=made.id)


@pytest.mark.parametrize("model", ["offline", "wire", "chat"])
def test_an_open_call_is_answered_behind_the_item(client: OpenAI, upstream: Recalling, model: str) -> None:
    given: Any = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "I do."}, CALL]
    made: Any = client.responses.compact(model=model, input=given).to_dict(warnings=False)["output"]
    output: Any = {"type": "function_call_output", "call_id": "call_7", "output": "a sail"}
    answer = client.responses.create(model=model, input=[*made, output])
    assert 'tool output: "a sail"' in answer.output_text


def test_a_stream_brings_the_item_first(client: OpenAI) -> None:
    first = client.responses.create(model="offline", input=long(FACTS["harbour"]))
    with client.responses.stream(
        model="offline",
        input="::recall harbour",
        previous_response_id=first.id,
        context_management=AUTOMATIC,
    ) as stream:
        kinds = [event.type for event in stream if event.type.startswith("response.output_item")]
        final = stream.get_final_response()
    assert kinds == ["response.output_item.added", "response.output_item.done"] * 2
    assert [item.type for item in final.output] == ["compaction", "message"]
    assert final.output_text == FACTS["harbour"]


async def test_a_worker_compacts_alike_for_a_tenant_with_a_name(quiet_database_url: str) -> None:
    """In the background the tenant's name is not in the request."""
    await new_key(quiet_database_url, "another", Scope.WRITE)
    key = await new_key(quiet_database_url, "acme", Scope.WRITE)
    environment = settings()
    with broker_running() as broker:
        environment["HOLDFAST_BROKER_URL"] = broker.url
        own = {name.removeprefix("HOLDFAST_").lower(): value for name, value in settings().items()}
        with (
            LiveServer(quiet_database_url, environment=environment) as live,
            LiveWorker(quiet_database_url, broker.url, **own),
            OpenAI(base_url=live.base_url, api_key=key.text, timeout=PATIENCE_SECONDS) as client,
        ):
            _compact_in_the_background(client)


def _compact_in_the_background(client: OpenAI) -> None:
    first = client.responses.create(model="offline", input=long(FACTS["harbour"]))
    made = _ended(client, "::recall harbour", first.id)
    assert [item.type for item in made.output] == ["compaction", "message"]
    assert made.output_text == FACTS["harbour"]
    with client.responses.create(
        model="offline", input=long("b"), previous_response_id=made.id, background=True, stream=True,
        context_management=AUTOMATIC,
    ) as stream:  # fmt: skip
        events: list[Any] = list(stream)
    live = [event.to_dict() for event in events]
    with client.responses.retrieve(events[0].response.id, stream=True) as again:
        assert [event.to_dict() for event in again] == live
    # What a worker has sealed, the API opens.
    plain = client.responses.create(model="offline", input="::recall harbour", previous_response_id=made.id)
    assert plain.output_text == FACTS["harbour"]


def _ended(client: OpenAI, text: str, parent: str) -> Any:
    response = client.responses.create(
        model="offline",
        input=text,
        previous_response_id=parent,
        background=True,
        context_management=AUTOMATIC,
    )
    wait_until(lambda: client.responses.retrieve(response.id).status not in {"queued", "in_progress"})
    return client.responses.retrieve(response.id)


@pytest.mark.parametrize("model", ["wire", "chat"])
def test_an_order_without_its_item_goes_to_no_upstream(
    client: OpenAI, upstream: Recalling, model: str
) -> None:
    """A conversation goes on when its compaction item is taken out: as if nothing had been ordered."""
    order: Any = {"type": "compaction_trigger"}
    conversation = client.conversations.create(items=[{"role": "user", "content": FACTS["Ada"]}]).id
    made = client.responses.create(
        model=model, conversation=conversation, input=[{"role": "user", "content": "b"}, order]
    )
    assert [item.type for item in made.output] == ["compaction"]
    client.conversations.items.delete(made.output[0].id or "", conversation_id=conversation)
    for question in ("::recall Ada", "::recall Tromsø"):
        answer = client.responses.create(model=model, conversation=conversation, input=question)
        assert "Storgata 12" in answer.output_text
        assert "compaction" not in str(upstream.requests[-1])
