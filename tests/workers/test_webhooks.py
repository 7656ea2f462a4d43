"""Webhooks from end to end: the API, a real worker, a receiver on loopback, and the official client."""

import asyncio
import base64
import signal
from collections.abc import Generator
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from app.domain.webhooks import EVENT_TYPES
from tests.background import execute
from tests.live import LiveServer
from tests.waiting import patience, wait_until
from tests.webhooks.receiving import Received, Receiver, hang
from tests.workers.processes import LiveBroker, LiveWorker

SETTINGS = {
    "seal_key": base64.b64encode(bytes(range(32))).decode(),
    "webhook_allowed_networks": '["127.0.0.0/8"]',
    "webhook_timeout_seconds": "2",
    "webhook_retry_seconds": "0.2",
    "reap_interval_seconds": "0.3",
}


@pytest.fixture(scope="module")
def server(database_url: str, broker: LiveBroker) -> Generator[LiveServer]:
    environment = {f"HOLDFAST_{name.upper()}": value for name, value in SETTINGS.items()}
    with LiveServer(database_url, environment=environment | {"HOLDFAST_BROKER_URL": broker.url}) as live:
        yield live


@pytest.fixture
def worker(database_url: str, broker: LiveBroker) -> Generator[LiveWorker]:
    with LiveWorker(database_url, broker.url, **SETTINGS) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def no_endpoints(client: OpenAI) -> Generator[None]:
    yield
    for each in client.webhooks.list(limit=100):
        client.webhooks.delete(each.id)


def endpoint(client: OpenAI, receiver: Receiver, *types: Any, path: str = "/hook") -> Any:
    make: Any = client.webhooks.create
    return make(name="mine", url=receiver.url(path), event_types=[*(types or EVENT_TYPES)])


def respond(client: OpenAI, text: str = "hi") -> str:
    return client.responses.create(model="offline", input=text, background=True).id


def deliveries(client: OpenAI, endpoint_id: str, name: str = "") -> Any:
    return client.get(f"/webhook_endpoints/{endpoint_id}/deliveries{name}", cast_to=object)


async def delivered(client: OpenAI, endpoint_id: str, event_id: str, status: str = "delivered") -> Any:
    """The delivery, once it stands so."""
    async with patience():
        while True:
            found = await asyncio.to_thread(deliveries, client, endpoint_id, f"/{event_id}")
            if found["status"] == status:
                return found
            await asyncio.sleep(0.05)


def unwrapped(client: OpenAI, got: Received, secret: str) -> Any:
    return client.webhooks.unwrap(got.body, got.headers, secret=secret)


async def test_the_end_of_a_background_response_is_told_signed_and_once(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    made = endpoint(client, receiver)
    response_id = await asyncio.to_thread(respond, client)
    [got] = await receiver.wait_for(1)
    event = unwrapped(client, got, made.signing_secret)
    assert (event.type, event.data.id) == ("response.completed", response_id)
    assert event.id == got.headers["webhook-id"]
    assert set(got.event) == {"id", "object", "created_at", "type", "data"}
    assert set(got.event["data"]) == {"id"}
    found = await delivered(client, made.id, event.id)
    assert [each["status_code"] for each in found["attempts"]] == [200]
    assert len(receiver.received) == 1


ENDS: dict[str, Any] = {
    "response.completed": {"input": "hi"},
    "response.failed": {"input": "::fail server_error"},
    "response.incomplete": {"input": "::words 50 1", "max_output_tokens": 16},
}


@pytest.mark.parametrize("event_type", ENDS)
async def test_each_end_of_a_run_is_an_event_and_is_told_to_those_who_asked(
    client: OpenAI, worker: LiveWorker, receiver: Receiver, event_type: str
) -> None:
    endpoint(client, receiver, event_type, path="/asked")
    endpoint(client, receiver, *(each for each in EVENT_TYPES if each != event_type), path="/others")
    params = {"model": "offline", "background": True, "stream": event_type == "response.failed"}
    made: Any = client.responses.create(**params, **ENDS[event_type])
    if params["stream"]:
        *_, last = made
        made = last.response
    [got] = await receiver.wait_for(1)
    assert (got.path, got.event["type"], got.event["data"]["id"]) == ("/asked", event_type, made.id)


async def test_cancelling_is_told_without_a_run(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    made = endpoint(client, receiver, "response.cancelled")
    response_id = client.responses.create(model="offline", input="::sleep 60", background=True).id
    client.responses.cancel(response_id)
    [got] = await receiver.wait_for(1)
    event = unwrapped(client, got, made.signing_secret)
    assert (event.type, event.data.id) == ("response.cancelled", response_id)


async def test_foreground_responses_tell_nobody(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    made = endpoint(client, receiver)
    client.responses.create(model="offline", input="hi")
    respond(client)
    await receiver.wait_for(1)
    assert len(deliveries(client, made.id)["data"]) == 1


async def test_it_is_tried_again_by_the_reaper_s_rounds_with_the_same_id(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    receiver.answers = [503, 302, hang, 404]
    made = endpoint(client, receiver)
    respond(client)
    got = await receiver.wait_for(5)
    assert len({each.headers["webhook-id"] for each in got}) == 1
    found = await delivered(client, made.id, got[0].headers["webhook-id"])
    assert [each["status_code"] for each in found["attempts"]] == [503, 302, None, 404, 200]
    assert all(unwrapped(client, each, made.signing_secret) for each in got)


async def test_a_worker_that_is_killed_midway_loses_nothing(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    receiver.answers = [hang]
    made = endpoint(client, receiver)
    with LiveWorker(database_url, broker.url, **SETTINGS) as killed:
        respond(client)
        [first] = await receiver.wait_for(1)
        await asyncio.to_thread(killed.stop, signal.SIGKILL)
    # As if its lease were over.
    await execute(database_url, "update webhook_deliveries set due_at = now() where due_at is not null")
    with LiveWorker(database_url, broker.url, **SETTINGS):
        second = (await receiver.wait_for(2))[1]
        found = await delivered(client, made.id, second.headers["webhook-id"])
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert [each["reason"] for each in found["attempts"]] == ["lost", "delivered"]


async def test_a_worker_that_stops_hands_back_what_hangs(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    receiver.answers = [hang]
    made = endpoint(client, receiver)
    patient = SETTINGS | {"webhook_timeout_seconds": "60", "shutdown_grace_seconds": "1"}
    with LiveWorker(database_url, broker.url, **patient) as stopped:
        respond(client)
        [got] = await receiver.wait_for(1)
        assert await asyncio.to_thread(stopped.stop) == 0
    found = deliveries(client, made.id, f"/{got.headers['webhook-id']}")
    assert [each["reason"] for each in found["attempts"]] == ["handed_back"]
    assert found["status"] == "pending"
    with LiveWorker(database_url, broker.url, **SETTINGS):
        await delivered(client, made.id, found["id"])


async def test_what_a_dead_broker_lost_is_rung_for_again(
    client: OpenAI, worker: LiveWorker, broker: LiveBroker, receiver: Receiver
) -> None:
    endpoint(client, receiver, "response.cancelled")
    response_id = client.responses.create(model="offline", input="::sleep 60", background=True).id
    await asyncio.to_thread(broker.kill)
    client.responses.cancel(response_id)
    await asyncio.to_thread(broker.start)
    [got] = await receiver.wait_for(1)
    assert got.event["data"]["id"] == response_id


async def test_endpoints_that_hang_hold_no_thread_of_a_response(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    """A worker of one thread goes on generating while it waits for a receiver."""
    receiver.answers = [hang] * 9
    endpoint(client, receiver)
    patient = SETTINGS | {"webhook_timeout_seconds": "60", "worker_concurrency": "1"}
    with LiveWorker(database_url, broker.url, **patient) as narrow:
        respond(client)
        await receiver.wait_for(1)
        response_id = respond(client)
        wait_until(lambda: client.responses.retrieve(response_id).status == "completed")
        narrow.stop(signal.SIGKILL)


async def test_a_busy_worker_tells_of_what_ended_there(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    """Its one thread generates the next response as long as this test lasts, and no reaper comes to help: its
    first round is over when the thread is set free.
    """
    endpoint(client, receiver, "response.completed")
    alone = SETTINGS | {"worker_concurrency": "1", "reap_interval_seconds": "3600"}
    with LiveWorker(database_url, broker.url, **alone) as narrow:
        first = respond(client, "::sleep 600")
        wait_until(lambda: client.responses.retrieve(first).status == "in_progress")
        ended, running = respond(client), respond(client, "::sleep 600")
        client.responses.cancel(first)
        [got] = await receiver.wait_for(1)
        assert got.event["data"]["id"] == ended
        narrow.stop(signal.SIGKILL)
    client.responses.cancel(running)


async def test_a_busy_worker_tells_of_what_ended_elsewhere(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    """The bell waits behind a response; the reaper's rounds do not."""
    endpoint(client, receiver)
    with LiveWorker(database_url, broker.url, **SETTINGS, worker_concurrency="1") as narrow:
        running = respond(client, "::sleep 600")
        wait_until(lambda: client.responses.retrieve(running).status == "in_progress")
        queued = respond(client)
        client.responses.cancel(queued)
        [got] = await receiver.wait_for(1)
        assert got.event["data"]["id"] == queued
        narrow.stop(signal.SIGKILL)
    client.responses.cancel(running)


async def test_replaying_delivers_the_same_once_more(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    made = endpoint(client, receiver)
    respond(client)
    [first] = await receiver.wait_for(1)
    event_id = first.headers["webhook-id"]
    await delivered(client, made.id, event_id)
    path = f"/webhook_endpoints/{made.id}/deliveries/{event_id}/replay"
    client.post(path, cast_to=object)
    second = (await receiver.wait_for(2))[1]
    assert (second.body, second.headers["webhook-id"]) == (first.body, event_id)
    assert unwrapped(client, second, made.signing_secret).id == event_id


async def test_while_secrets_overlap_both_verify(
    client: OpenAI, worker: LiveWorker, receiver: Receiver
) -> None:
    made = endpoint(client, receiver)
    rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    respond(client)
    [got] = await receiver.wait_for(1)
    for secret in (made.signing_secret, rotated.signing_secret):
        assert unwrapped(client, got, secret)
    ended = client.webhooks.rotate_secret(made.id)
    respond(client)
    got = (await receiver.wait_for(2))[1]
    assert unwrapped(client, got, ended.signing_secret)
    for secret in (made.signing_secret, rotated.signing_secret):
        with pytest.raises(InvalidWebhookSignatureError):
            unwrapped(client, got, secret)


async def test_private_targets_get_nothing_unless_they_are_allowed(
    client: OpenAI, database_url: str, broker: LiveBroker, receiver: Receiver
) -> None:
    """Whatever was allowed when the endpoint was made: what counts is the worker that sends."""
    made = endpoint(client, receiver)
    strict = SETTINGS | {"webhook_allowed_networks": "[]"}
    with LiveWorker(database_url, broker.url, **strict) as worker:
        response_id = respond(client)
        event_id = response_id.replace("resp_", "evt_")
        await asyncio.to_thread(wait_until, lambda: worker.said("webhook.failed") > 0)
        found = deliveries(client, made.id, f"/{event_id}")
    assert {each["reason"] for each in found["attempts"] if each["reason"]} == {"address_not_allowed"}
    assert receiver.received == []


async def test_no_secret_is_logged(
    client: OpenAI, server: LiveServer, worker: LiveWorker, receiver: Receiver
) -> None:
    receiver.answers = [500]
    made = endpoint(client, receiver)
    respond(client)
    await receiver.wait_for(2)
    for log in (server.log, worker.log):
        assert made.signing_secret.removeprefix("whsec_") not in log
