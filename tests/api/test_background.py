"""Background responses as a client sees them: what each route tells of them in every state they can be in."""

import asyncio
from collections.abc import Generator, Iterator
from typing import Any
from uuid import UUID

import httpx2
import pytest

from app.domain.tenancy import Caller
from tests import grammar
from tests.api.asking import CREATE, MISSING, Refusal, create, frames, invalid, refusal, stream, text
from tests.api.conftest import client_of
from tests.background import empty_queue, execute
from tests.live import LiveServer
from tests.waiting import wait_until
from tests.workers.processes import LiveBroker, LiveWorker

MAX_QUEUED = 4

OUTCOME = {"id", "created_at", "status", "background", "output", "usage", "completed_at", "service_tier"}
"""What a queued response cannot have in common with the same one, made in the foreground."""


CANCELLED = {"status": "cancelled", "service_tier": "default"}
"""What a cancel changes. With the end comes the tier that was given, where `auto` was asked for."""


@pytest.fixture(scope="module")
def live(quiet_database_url: str, broker: LiveBroker) -> Generator[httpx2.Client]:
    """An API whose queue is served only where a test brings a worker."""
    environment = {"HOLDFAST_BROKER_URL": broker.url, "HOLDFAST_MAX_QUEUED": str(MAX_QUEUED)}
    with LiveServer(quiet_database_url, environment=environment) as server, client_of(server) as client:
        yield client


@pytest.fixture
async def idle(live: httpx2.Client, quiet_database_url: str) -> httpx2.Client:
    """The same with an empty queue, and nobody to serve it."""
    await empty_queue(quiet_database_url)
    return live


@pytest.fixture(scope="class")
def served(live: httpx2.Client, quiet_database_url: str, broker: LiveBroker) -> Iterator[httpx2.Client]:
    """The same with an empty queue and a worker, whose reaper looks around often."""
    asyncio.run(empty_queue(quiet_database_url))
    with LiveWorker(quiet_database_url, broker.url, reap_interval_seconds="0.2"):
        yield live


def queue(api: httpx2.Client, given: Any = "hi", **params: Any) -> dict[str, Any]:
    return create(api, given, background=True, **params)


def path(response: dict[str, Any], tail: str = "") -> str:
    return f"{CREATE}/{response['id']}{tail}"


def read(api: httpx2.Client, response: dict[str, Any]) -> dict[str, Any]:
    answer = api.get(path(response))
    assert answer.status_code == 200, answer.text
    return answer.json()


def reached(api: httpx2.Client, response: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """The response once it is in one of these states."""
    wait_until(lambda: read(api, response)["status"] in statuses)
    return read(api, response)


def finished(api: httpx2.Client, given: Any = "hi", **params: Any) -> dict[str, Any]:
    return reached(api, queue(api, given, **params), "completed", "failed", "incomplete")


def ask(api: httpx2.Client, **params: Any) -> httpx2.Response:
    return api.post(CREATE, json={"model": "offline", "input": "hi", **params})


def cancel(api: httpx2.Client, response: dict[str, Any]) -> httpx2.Response:
    return api.post(path(response, "/cancel"))


def listed(api: httpx2.Client) -> list[str]:
    return [row["id"] for row in api.get(CREATE, params={"limit": 100}).json()["data"]]


def attempts(api: httpx2.Client, response: dict[str, Any]) -> list[dict[str, Any]]:
    page = api.get(path(response, "/attempts")).json()
    assert page.keys() == {"object", "data"}
    assert page["object"] == "list"
    return page["data"]


def absent(name: str) -> Refusal:
    return invalid(f"Response with id '{name}' not found.", code=None, param=None, status=404)


def conflict(message: str) -> Refusal:
    return invalid(message, code=None, param=None)


def said(raw: bytes) -> list[bytes]:
    """The blocks of a stream, its end too, but without the comments that keep it alive."""
    return [block for block in raw.split(b"\n\n") if not block.startswith(b":")]


def key(response: dict[str, Any]) -> UUID:
    return UUID(response["id"].removeprefix("resp_"))


class TestQueued:
    def test_the_answer_tells_nothing_that_is_not_so_yet(self, idle: httpx2.Client) -> None:
        queued = queue(idle, instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=99)
        assert (queued["object"], queued["background"], queued["store"]) == ("response", True, True)
        assert (queued["status"], queued["output"]) == ("queued", [])
        nothing = ("usage", "error", "incomplete_details", "completed_at")
        assert [queued[name] for name in nothing] == [None] * 4
        assert read(idle, queued) == queued
        assert queued["id"] in listed(idle)

    def test_it_says_of_its_request_what_a_foreground_response_says(self, idle: httpx2.Client) -> None:
        """No parameter is lost or changed on the way (law L5)."""
        params: dict[str, Any] = {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "temperature": 0.5,
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
            "tool_choice": "none",
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_object"}},
        }
        queued, made = queue(idle, **params), create(idle, **params)
        assert queued.keys() == made.keys()
        assert {name: queued[name] for name in queued.keys() - OUTCOME} == {
            name: made[name] for name in made.keys() - OUTCOME
        }

    def test_nobody_has_tried_it(self, idle: httpx2.Client) -> None:
        assert attempts(idle, queue(idle)) == []

    def test_nothing_can_be_chained_on_it(self, idle: httpx2.Client) -> None:
        queued = queue(idle)
        words = f"Previous response with id '{queued['id']}' not found."
        refused = refusal(ask(idle, previous_response_id=queued["id"]))
        assert refused == invalid(words, code="previous_response_not_found", param="previous_response_id")

    def test_it_cannot_be_deleted(self, idle: httpx2.Client) -> None:
        queued = queue(idle)
        assert refusal(idle.delete(path(queued))) == conflict("Cannot delete an in-flight response.")
        assert read(idle, queued) == queued

    def test_cancelled_it_is_what_it_was_but_for_its_state(self, idle: httpx2.Client) -> None:
        queued = queue(idle)
        answer = cancel(idle, queued)
        assert (answer.status_code, answer.json()) == (200, {**queued, **CANCELLED})
        again = cancel(idle, queued)
        assert (again.status_code, again.content) == (200, answer.content)
        assert idle.get(path(queued)).content == answer.content
        assert attempts(idle, queued) == []
        assert idle.delete(path(queued)).json() == {"id": queued["id"], "object": "response", "deleted": True}
        assert refusal(cancel(idle, queued)) == absent(queued["id"])


class TestLimit:
    @pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])
    async def test_a_full_queue_takes_nothing_and_leaves_nothing(
        self, idle: httpx2.Client, quiet_database_url: str, *, is_streamed: bool
    ) -> None:
        first, *_ = [queue(idle) for _ in range(MAX_QUEUED)]
        count = "select (select count(*) from responses), (select count(*) from response_events)"
        before = await execute(quiet_database_url, count)
        refused = ask(idle, background=True, stream=is_streamed)
        words = f"Too many responses are queued: {MAX_QUEUED} is the limit. Please retry later."
        assert refusal(refused) == Refusal(429, "rate_limit_exceeded", None, words, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        assert await execute(quiet_database_url, count) == before
        create(idle, "in the foreground there is room")
        cancel(idle, first)
        assert queue(idle)["status"] == "queued"


def test_service_tiers_are_served_in_their_order(
    idle: httpx2.Client, quiet_database_url: str, broker: LiveBroker
) -> None:
    """Priority first and flex last, each kind in the order in which it came."""
    tiers = ["flex", "default", "auto", "priority"]
    flex, default, auto, priority = [queue(idle, service_tier=tier) for tier in tiers]
    with LiveWorker(quiet_database_url, broker.url, worker_concurrency="1"):
        for response in (flex, default, auto, priority):
            reached(idle, response, "completed")
    wanted = [response["id"] for response in (priority, default, auto, flex)]
    began = {
        response["id"]: attempts(idle, response)[0]["started_at"]
        for response in (flex, default, auto, priority)
    }
    assert sorted(began, key=lambda name: began[name]) == wanted


class TestEnded:
    def test_it_completes_as_it_would_have_in_the_foreground(self, served: httpx2.Client) -> None:
        done, made = finished(served), create(served)
        assert done["status"] == "completed"
        assert (text(done), done["usage"]) == (text(made), made["usage"])
        assert done["completed_at"] >= done["created_at"]
        assert "3 items" in text(create(served, "and?", previous_response_id=done["id"]))

    def test_its_attempt_is_shown_whole(self, served: httpx2.Client) -> None:
        [attempt] = attempts(served, finished(served))
        fields = ["object", "attempt", "owner", "started_at", "ended_at", "reason", "upstream_id"]
        assert list(attempt) == [*fields, "usage", "partial_output"]
        assert [attempt[name] for name in ("object", "attempt", "reason")] == [
            "response.attempt",
            1,
            "completed",
        ]
        assert attempt["owner"]
        assert attempt["started_at"] <= attempt["ended_at"]
        assert (attempt["usage"]["output_tokens"] > 0, attempt["partial_output"]) == (True, [])

    async def test_its_attempts_are_its_tenants_alone(
        self, served: httpx2.Client, quiet_database_url: str
    ) -> None:
        """Law L7: not even their number can be learned."""
        done = finished(served)
        new = "insert into tenants (name) values (gen_random_uuid()::text) returning id"
        [[other]] = await execute(quiet_database_url, new)
        for table, name in (("responses", "id"), ("response_attempts", "response_id")):
            given = f"update {table} set tenant_id = $1 where {name} = $2 and tenant_id = $3"
            await execute(quiet_database_url, given, other, key(done), Caller().tenant_id)
        assert refusal(served.get(path(done, "/attempts"))) == absent(done["id"])
        assert refusal(cancel(served, done)) == absent(done["id"])

    @pytest.mark.parametrize(
        ("given", "params", "state", "words"),
        [
            ("hi", {}, "completed", "Cannot cancel a completed response."),
            ("::fail server_error", {}, "failed", "Cannot cancel a failed response."),
            (
                "::words 100 0",
                {"max_output_tokens": 16},
                "incomplete",
                "Cannot cancel an incomplete response.",
            ),
        ],
    )
    def test_it_cannot_be_cancelled_any_more(
        self, served: httpx2.Client, given: str, params: dict[str, Any], state: str, words: str
    ) -> None:
        done = finished(served, given, **params)
        assert done["status"] == state
        assert refusal(cancel(served, done)) == conflict(words)
        assert read(served, done) == done

    async def test_an_unstored_one_can_be_polled_for_a_while_and_is_gone_then(
        self, served: httpx2.Client, quiet_database_url: str
    ) -> None:
        done = finished(served, store=False)
        assert (done["status"], done["store"]) == ("completed", False)
        assert done["id"] not in listed(served)
        assert refusal(served.get(path(done, "/input_items"))) == absent(done["id"])
        refused = refusal(ask(served, previous_response_id=done["id"]))
        assert refused.code == "previous_response_not_found"
        [[left]] = await execute(
            quiet_database_url,
            "select extract(epoch from expires_at - finished_at) from responses where id = $1",
            key(done),
        )
        assert left == 600
        over = "update responses set expires_at = now() - interval '1 s' where id = $1"
        await execute(quiet_database_url, over, key(done))
        wait_until(lambda: served.get(path(done)).status_code == 404)
        assert refusal(served.get(path(done))) == absent(done["id"])
        assert refusal(served.get(path(done, "/attempts"))) == absent(done["id"])
        left_over = "select from response_attempts where response_id = $1"
        assert await execute(quiet_database_url, left_over, key(done)) == []


class TestRunning:
    def test_it_is_not_deleted_before_it_is_cancelled(self, served: httpx2.Client) -> None:
        running = reached(served, queue(served, "::sleep 60"), "in_progress")
        assert (running["output"], running["usage"], running["completed_at"]) == ([], None, None)
        assert refusal(served.delete(path(running))) == conflict("Cannot delete an in-flight response.")
        answer = cancel(served, running)
        assert (answer.status_code, answer.json()) == (200, {**running, **CANCELLED})
        assert cancel(served, running).content == answer.content
        [attempt] = attempts(served, running)
        assert (attempt["reason"], attempt["ended_at"] is None) == ("cancelled", False)
        assert served.delete(path(running)).json()["deleted"] is True
        assert refusal(served.get(path(running))) == absent(running["id"])

    def test_a_stream_of_what_is_cancelled_elsewhere_ends_with_it(self, served: httpx2.Client) -> None:
        body = {"model": "offline", "input": "::words 5000 20", "background": True, "stream": True}
        said = b""
        with served.stream("POST", CREATE, json=body) as answer:
            for chunk in answer.iter_bytes():
                said += chunk
                if b"output_text.delta" in said:
                    break
            response = frames(said[: said.rindex(b"\n\n") + 2])[0].data["response"]
            cancelled = cancel(served, response).json()
        rest = frames(served.get(path(response), params={"stream": "true"}).content)
        assert (rest[-1].event, rest[-1].data["response"]) == ("response.failed", cancelled)
        assert (cancelled["status"], cancelled["error"], cancelled["output"]) == ("cancelled", None, [])


@pytest.fixture(scope="class")
def whole(served: httpx2.Client) -> bytes:
    """A stream that was read to its end while it was made."""
    return stream(served, "::words 20 1", background=True)


class TestStream:
    @pytest.fixture
    def name(self, whole: bytes) -> str:
        return f"{CREATE}/{frames(whole)[0].data['response']['id']}"

    def test_it_begins_queued_and_ends_with_what_is_stored(
        self, served: httpx2.Client, whole: bytes, name: str
    ) -> None:
        events = frames(whole)
        kinds = ["response.created", "response.queued", "response.in_progress"]
        assert [event.event for event in events[:3]] == kinds
        states = [event.data["response"]["status"] for event in events[:3]]
        assert states == ["queued", "queued", "in_progress"]
        assert grammar.check([event.data for event in events]) == served.get(name).json()

    def test_it_is_replayed_byte_for_byte_from_anywhere(
        self, served: httpx2.Client, whole: bytes, name: str
    ) -> None:
        blocks = said(whole)
        last = len(frames(whole)) - 1
        for after in (-1, 0, 7, last - 1, last, last + 1, 10**12):
            answer = served.get(name, params={"stream": "true", "starting_after": str(after)})
            assert answer.status_code == 200
            assert said(answer.content) == blocks[min(after, last) + 1 :], after

    def test_padding_can_be_left_out(self, served: httpx2.Client, whole: bytes, name: str) -> None:
        query = {"stream": "true", "include_obfuscation": "false"}
        bare = frames(served.get(name, params=query).content)
        assert b'"obfuscation"' in whole
        expected = [{k: v for k, v in event.data.items() if k != "obfuscation"} for event in frames(whole)]
        assert [event.data for event in bare] == expected

    @pytest.mark.parametrize("query", [{"stream": "false"}, {"starting_after": "3"}])
    def test_without_the_flag_it_is_read_as_an_object(
        self, served: httpx2.Client, name: str, query: dict[str, str]
    ) -> None:
        assert served.get(name, params=query).json() == served.get(name).json()

    def test_what_was_not_streamed_cannot_be_followed(self, served: httpx2.Client) -> None:
        words = "This response cannot be streamed because it was not created with {}=true."
        for response, flag in ((queue(served), "stream"), (create(served), "background")):
            refused = refusal(served.get(path(response), params={"stream": "true", "starting_after": "1"}))
            assert refused == invalid(words.format(flag), code=None, param="stream")

    def test_a_cursor_is_an_integer(self, served: httpx2.Client, name: str) -> None:
        words = "Invalid type for 'starting_after': expected an integer, but got a string instead."
        for cursor in ("last", "", "1.5"):
            refused = refusal(served.get(name, params={"stream": "true", "starting_after": cursor}))
            assert refused == invalid(words, code="invalid_type", param="starting_after")


class TestRefusals:
    def test_a_foreground_response_is_not_cancelled(self, idle: httpx2.Client) -> None:
        made = create(idle)
        assert refusal(cancel(idle, made)) == conflict("Cannot cancel a synchronous response.")
        assert attempts(idle, made) == []

    @pytest.mark.parametrize(("method", "tail"), [("POST", "/cancel"), ("GET", "/attempts")])
    def test_what_there_is_not_is_not_found(self, idle: httpx2.Client, method: str, tail: str) -> None:
        assert refusal(idle.request(method, f"{CREATE}/{MISSING}{tail}")) == absent(MISSING)
        words = "Invalid 'response_id': 'msg_1'. Expected an ID that begins with 'resp'."
        refused = refusal(idle.request(method, f"{CREATE}/msg_1{tail}"))
        assert refused == invalid(words, param="response_id")

    @pytest.mark.parametrize("name", ["background", "stream"])
    @pytest.mark.parametrize(("value", "kind"), [("true", "a string"), (1, "an integer"), ({}, "an object")])
    def test_a_flag_is_a_boolean(self, idle: httpx2.Client, name: str, value: Any, kind: str) -> None:
        """Refused in one line of JSON, streamed or not, and nothing is queued."""
        before = listed(idle)
        refused = ask(idle, **{"background": True, "stream": True, name: value})
        words = f"Invalid type for '{name}': expected a boolean, but got {kind} instead."
        assert refusal(refused) == invalid(words, code="invalid_type", param=name)
        assert listed(idle) == before

    def test_what_is_wrong_is_found_before_it_is_queued(self, idle: httpx2.Client) -> None:
        refused = refusal(ask(idle, background=True, stream=True, previous_response_id=MISSING))
        assert (refused.status, refused.code) == (400, "previous_response_not_found")
        refused = refusal(ask(idle, background=True, model="nobody"))
        assert (refused.status, refused.code) == (400, "model_not_found")

    def test_a_server_without_a_broker_says_that_it_has_none(self, api: httpx2.Client) -> None:
        words = "Unsupported parameter: 'background' needs a broker, and this server has none."
        refused = refusal(ask(api, background=True))
        assert refused == invalid(words, code="unsupported_parameter", param="background")
        assert ask(api, background=False).status_code == 200
