"""The official client creates background responses, polls, follows, reconnects and cancels."""

from collections.abc import Generator

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseTextDeltaEvent

from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS, wait_until
from tests.workers.processes import LiveWorker


@pytest.fixture(scope="module")
def api(quiet_database_url: str, broker_url: str) -> Generator[LiveServer]:
    """An API and a worker that share nothing but Postgres and a broker."""
    with (
        LiveServer(quiet_database_url, environment={"HOLDFAST_BROKER_URL": broker_url}) as live,
        LiveWorker(quiet_database_url, broker_url),
    ):
        yield live


@pytest.fixture
def client(api: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=api.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
        yield client


def ended(client: OpenAI, response: Response) -> Response:
    """Poll as the guide does, only faster."""
    wait_until(lambda: client.responses.retrieve(response.id).status not in {"queued", "in_progress"})
    return client.responses.retrieve(response.id)


def test_create_poll_and_chain(client: OpenAI) -> None:
    queued = client.responses.create(model="offline", input="Hello", background=True)
    assert (queued.status, queued.output, queued.usage) == ("queued", [], None)
    done = ended(client, queued)
    assert done.status == "completed"
    assert done.usage
    child = client.responses.create(
        model="offline", input="And now?", background=True, previous_response_id=done.id
    )
    assert "3 items" in ended(client, child).output_text


def test_cancel_is_final_and_may_be_repeated(client: OpenAI) -> None:
    running = client.responses.create(model="offline", input="::sleep 30", background=True)
    cancelled = client.responses.cancel(running.id)
    assert cancelled.status == "cancelled"
    assert client.responses.cancel(running.id) == cancelled
    assert client.responses.retrieve(running.id) == cancelled
    done = ended(client, client.responses.create(model="offline", input="Hi", background=True))
    with pytest.raises(BadRequestError, match="Cannot cancel a completed response"):
        client.responses.cancel(done.id)
    with pytest.raises(NotFoundError):
        client.responses.cancel("resp_" + "0" * 32)
    synchronous = client.responses.create(model="offline", input="Hi")
    with pytest.raises(BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(synchronous.id)


def test_a_stream_is_left_and_resumed(client: OpenAI, api: LiveServer) -> None:
    """The restart of the API in between changes nothing."""
    heard: list[str] = []
    cursor, name = -1, ""
    with client.responses.create(
        model="offline", input="::words 40 20", background=True, stream=True
    ) as stream:
        for event in stream:
            cursor = event.sequence_number
            if event.type == "response.created":
                assert event.response.status == "queued"
                name = event.response.id
            if isinstance(event, ResponseTextDeltaEvent):
                heard.append(event.delta)
            if len(heard) == 5:
                break
    api.restart()
    with client.responses.retrieve(name, stream=True, starting_after=cursor) as stream:
        rest = list(stream)
    assert [event.sequence_number for event in rest] == list(range(cursor + 1, cursor + 1 + len(rest)))
    heard += [event.delta for event in rest if isinstance(event, ResponseTextDeltaEvent)]
    last = rest[-1]
    assert last.type == "response.completed"
    assert "".join(heard) == last.response.output_text
    assert client.responses.retrieve(name) == last.response


def test_the_streaming_helper_resumes(client: OpenAI) -> None:
    queued = client.responses.create(model="offline", input="::words 20 5", background=True, stream=True)
    with queued as stream:
        created = next(iter(stream))
    assert created.type == "response.created"
    with client.responses.stream(response_id=created.response.id, starting_after=3) as helper:
        numbers = [event.sequence_number for event in helper]
        final = helper.get_final_response()
    assert numbers[0] == 4
    assert final.status == "completed"
    assert len(final.output_text.split()) == 20


def test_only_a_background_stream_can_be_followed(client: OpenAI) -> None:
    done = ended(client, client.responses.create(model="offline", input="Hi", background=True))
    with pytest.raises(BadRequestError, match="not created with stream=true"):
        client.responses.retrieve(done.id, stream=True)


def test_a_result_that_is_not_stored_can_be_polled_for_a_while(client: OpenAI) -> None:
    done = ended(client, client.responses.create(model="offline", input="Hi", background=True, store=False))
    assert done.status == "completed"
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="offline", input="Hi", previous_response_id=done.id)
    assert refused.value.code == "previous_response_not_found"
    with pytest.raises(NotFoundError):
        client.responses.input_items.list(done.id)


def test_what_runs_cannot_be_deleted(client: OpenAI) -> None:
    running = client.responses.create(model="offline", input="::sleep 30", background=True)
    with pytest.raises(BadRequestError, match="Cannot delete an in-flight response"):
        client.responses.delete(running.id)
    client.responses.cancel(running.id)
    client.responses.delete(running.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(running.id)


def test_attempts_are_told(client: OpenAI) -> None:
    done = ended(client, client.responses.create(model="offline", input="Hi", background=True))
    page = client.get(f"/responses/{done.id}/attempts", cast_to=dict)
    (attempt,) = page["data"]
    assert (attempt["attempt"], attempt["reason"]) == (1, "completed")
    assert attempt["started_at"] <= attempt["ended_at"]
    assert attempt["usage"]["output_tokens"] > 0
