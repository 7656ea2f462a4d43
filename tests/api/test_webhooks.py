"""Endpoints of webhooks through the API: kept, shown, changed, tested; what is refused of them."""

import asyncio
import base64
from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from app import ids
from app.domain.audit import Action
from app.domain.webhooks import EVENT_TYPES
from tests.api.asking import invalid, refusal
from tests.api.conftest import client_of
from tests.background import execute
from tests.live import LiveServer
from tests.webhooks.receiving import Receiver, hang, receiving

ENDPOINTS = "/v1/webhook_endpoints"
GOOD: dict[str, Any] = {
    "name": "mine",
    "url": "https://example.com/x?y=1",
    "event_types": ["response.failed"],
}
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def strict_server(quiet_database_url: str) -> Generator[LiveServer]:
    """As an operator has it who allows no network."""
    with LiveServer(quiet_database_url, environment={"HOLDFAST_SEAL_KEY": KEY}) as live:
        yield live


@pytest.fixture(scope="module")
def strict(strict_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(strict_server) as client:
        yield client


@pytest.fixture(scope="module")
def local_server(quiet_database_url: str) -> Generator[LiveServer]:
    """As for a receiver beside it; of few endpoints."""
    environment = {
        "HOLDFAST_SEAL_KEY": KEY,
        "HOLDFAST_WEBHOOK_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        "HOLDFAST_WEBHOOK_TIMEOUT_SECONDS": "2",
        "HOLDFAST_MAX_WEBHOOK_ENDPOINTS": "5",
    }
    with LiveServer(quiet_database_url, environment=environment) as live:
        yield live


@pytest.fixture
def client(local_server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=local_server.base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
async def no_endpoints(quiet_database_url: str) -> None:
    await execute(quiet_database_url, "delete from webhook_endpoints")


def create(strict: httpx2.Client, **changes: Any) -> dict[str, Any]:
    answer = strict.post(ENDPOINTS, json=GOOD | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def made_by(client: OpenAI, **changes: Any) -> Any:
    """The official client's types know no dictionary of parameters."""
    make: Any = client.webhooks.create
    return make(**GOOD | changes)


class TestKeeping:
    def test_what_is_made_is_answered_with_its_secret_and_then_without(self, strict: httpx2.Client) -> None:
        made = create(strict)
        secret = made.pop("signing_secret")
        assert made == {
            "id": made["id"],
            "object": "webhook_endpoint",
            **GOOD,
            "created_at": made["created_at"],
            "updated_at": made["updated_at"],
            "signing_secret_hint": f"whsec_****{secret[-5:-1]}",
            "status": "enabled",
        }
        assert ids.parse_webhook_endpoint_id(made["id"])
        answer = strict.get(f"{ENDPOINTS}/{made['id']}")
        assert answer.json() == made
        assert strict.get(ENDPOINTS).json()["data"] == [made]

    def test_an_event_type_is_kept_once(self, strict: httpx2.Client) -> None:
        made = create(strict, event_types=["response.failed", "response.failed", "response.completed"])
        assert made["event_types"] == ["response.failed", "response.completed"]

    def test_lists_have_pages(self, strict: httpx2.Client) -> None:
        made = [create(strict, name=str(number))["id"] for number in range(5)][::-1]
        first = strict.get(ENDPOINTS, params={"limit": 2}).json()
        assert [each["id"] for each in first["data"]] == made[:2]
        assert (first["first_id"], first["last_id"], first["has_more"]) == (made[0], made[1], True)
        rest = strict.get(ENDPOINTS, params={"after": made[1]}).json()
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (made[2:], False)

    def test_only_what_is_given_is_changed(self, strict: httpx2.Client) -> None:
        made = create(strict)
        path = f"{ENDPOINTS}/{made['id']}"
        del made["signing_secret"]
        for change in ({"name": "yours"}, {"url": "https://example.org"}, {"event_types": [*EVENT_TYPES]}):
            made |= change
            assert strict.post(path, json=change).json() == made | {
                "updated_at": strict.get(path).json()["updated_at"]
            }
        assert strict.get(path).json()["name"] == "yours"

    async def test_what_comes_to_the_same_is_no_update(
        self, strict: httpx2.Client, quiet_database_url: str
    ) -> None:
        made = create(strict)
        path = f"{ENDPOINTS}/{made['id']}"
        await execute(
            quiet_database_url, "update webhook_endpoints set updated_at = now() - interval '1 hour'"
        )
        before = strict.get(path).json()
        for same in ({}, {"name": GOOD["name"]}, GOOD):
            assert strict.post(path, json=same).json() == before
        assert strict.post(path, json={"name": "x"}).json()["updated_at"] > before["updated_at"] + 3000

    def test_what_is_deleted_is_gone(self, strict: httpx2.Client) -> None:
        name = create(strict)["id"]
        path = f"{ENDPOINTS}/{name}"
        answer = strict.delete(path)
        assert answer.json() == {"id": name, "object": "webhook_endpoint.deleted", "deleted": True}
        for gone in (strict.delete(path), strict.get(path), strict.post(path, json={"name": "x"})):
            assert refusal(gone) == invalid(
                f"Webhook endpoint with id '{name}' not found.", param=None, code=None, status=404
            )

    def test_a_new_secret_is_shown_once(self, strict: httpx2.Client) -> None:
        made = create(strict)
        path = f"{ENDPOINTS}/{made['id']}"
        seen = {made["signing_secret"]}
        for body in (b"", b"{}", b'{"keep_old_secret_active_for_24_hours":true}'):
            seen.add(strict.post(f"{path}/rotate_secret", content=body).json()["signing_secret"])
        assert len(seen) == 4
        assert "signing_secret" not in strict.get(path).json()

    def test_what_there_is_to_be_told_of(self, strict: httpx2.Client) -> None:
        assert strict.get("/v1/webhook_event_types").json() == {"object": "list", "data": [*EVENT_TYPES]}

    async def test_every_change_is_noted_and_no_secret_with_it(
        self, strict: httpx2.Client, quiet_database_url: str
    ) -> None:
        made = create(strict)
        path = f"{ENDPOINTS}/{made['id']}"
        strict.post(path, json={"name": "yours"})
        rotated = strict.post(f"{path}/rotate_secret", json={}).json()
        strict.delete(path)
        key = ids.parse_webhook_endpoint_id(made["id"])
        rows = await execute(
            quiet_database_url, "select * from audit_outbox where subject = $1 order by seq", key
        )
        assert [row["action"] for row in rows] == [
            Action.WEBHOOK_CREATED,
            Action.WEBHOOK_UPDATED,
            Action.WEBHOOK_ROTATED,
            Action.WEBHOOK_DELETED,
        ]
        for secret in (made["signing_secret"], rotated["signing_secret"]):
            assert all(secret not in row["data"] for row in rows)


URLS = [
    ("http://example.com", "begins with 'https://'"),
    ("ftp://example.com", "begins with 'https://'"),
    ("example.com", "valid URL"),
    ("https://", "valid URL"),
    ("https://a b/", "valid URL"),
    ("https://[::1", "valid URL"),
    ("https://example.com:99999/", "valid URL"),
    ("https://example.com/\n", "valid URL"),
    ("https://user:pass@example.com/", "without a user"),
    ("https://example.com/#x", "without a user"),
    ("https://127.0.0.1/", "private addresses"),
    ("https://10.0.0.1:8443/", "private addresses"),
    ("https://169.254.169.254/latest", "private addresses"),
    ("https://[::1]/", "private addresses"),
    ("https://[::ffff:127.0.0.1]/", "private addresses"),
]


class TestRefusals:
    @pytest.mark.parametrize(("url", "told"), URLS)
    def test_urls_that_could_never_be_sent_to(self, strict: httpx2.Client, url: str, told: str) -> None:
        name = create(strict)["id"]
        for path in (ENDPOINTS, f"{ENDPOINTS}/{name}"):
            found = refusal(strict.post(path, json=GOOD | {"url": url}))
            assert (found.status, found.code, found.param) == (400, "invalid_value", "url")
            assert told in found.message

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({}, "missing_required_parameter", "name"),
            ({"name": "x"}, "missing_required_parameter", "url"),
            ({"name": "x", "url": "https://x"}, "missing_required_parameter", "event_types"),
            (GOOD | {"name": ""}, "empty_string", "name"),
            (GOOD | {"name": "x" * 201}, "string_above_max_length", "name"),
            (GOOD | {"name": "a\0b"}, "invalid_value", "name"),
            (GOOD | {"name": 7}, "invalid_type", "name"),
            (GOOD | {"url": "https://x/" + "x" * 2048}, "string_above_max_length", "url"),
            (GOOD | {"url": "https://x/\0"}, "invalid_value", "url"),
            (GOOD | {"event_types": []}, "empty_array", "event_types"),
            (GOOD | {"event_types": ["batch.completed"]}, "invalid_value", "event_types[0]"),
            (GOOD | {"event_types": "response.failed"}, "invalid_type", "event_types"),
            (GOOD | {"event_types": ["response.failed"] * 5}, "array_above_max_length", "event_types"),
            (GOOD | {"title": "x"}, "unknown_parameter", "title"),
        ],
    )
    def test_bodies_in_openai_s_words(
        self, strict: httpx2.Client, body: dict[str, Any], code: str, param: str
    ) -> None:
        told = refusal(strict.post(ENDPOINTS, json=body))
        assert (told.status, told.code, told.param) == (400, code, param)

    def test_an_event_that_is_not_fired_here_is_refused_by_what_is(self, strict: httpx2.Client) -> None:
        told = refusal(strict.post(ENDPOINTS, json=GOOD | {"event_types": ["video.completed"]}))
        assert all(f"'{each}'" in told.message for each in EVENT_TYPES)

    @pytest.mark.parametrize(
        "content", [b"[]", b"{", b"null", b'{"event_type":null}', b'{"event_type":"x"}', b""]
    )
    def test_no_body_is_a_bug(self, strict: httpx2.Client, content: bytes) -> None:
        path = f"{ENDPOINTS}/{create(strict)['id']}"
        for tail in ("", "/rotate_secret", "/test"):
            assert strict.post(f"{path}{tail}", content=content).status_code in {200, 400}

    @pytest.mark.parametrize("query", [{"after": "we_x"}, {"after": "resp_1"}, {"limit": 0}, {"limit": 101}])
    def test_cursors_and_limits_in_openai_s_words(self, strict: httpx2.Client, query: dict[str, Any]) -> None:
        assert refusal(strict.get(ENDPOINTS, params=query)).param == next(iter(query))

    def test_there_is_a_limit(self, client: OpenAI) -> None:
        for _ in range(5):
            made_by(client)
        with pytest.raises(BadRequestError, match="5 is the limit") as refused:
            made_by(client)
        assert refused.value.code == "webhook_endpoint_limit_exceeded"

    def test_without_a_seal_key_there_are_none(self, api: httpx2.Client) -> None:
        told = refusal(api.post(ENDPOINTS, json=GOOD))
        assert (told.status, told.code) == (400, "unsupported_operation")
        assert "seal_key" in told.message


class TestSample:
    async def test_a_signed_sample_is_sent_at_once_and_its_status_is_told(
        self, client: OpenAI, receiver: Receiver
    ) -> None:
        made = made_by(client, url=receiver.url())
        for status in (200, 500, 302):
            receiver.answers = [status]
            told = await asyncio.to_thread(client.webhooks.test, made.id, event_type="response.incomplete")
            assert told.success is (status == 200)
            assert (told.status_code, told.event_type) == (status, "response.incomplete")
            got = receiver.received[-1]
            event = client.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret)
            assert event.type == "response.incomplete"
        assert len(receiver.received) == 3
        answer = client.get(f"/webhook_endpoints/{made.id}/deliveries", cast_to=object)
        assert isinstance(answer, dict)
        assert answer["data"] == []

    async def test_it_is_noted_whatever_was_answered(
        self, client: OpenAI, receiver: Receiver, quiet_database_url: str
    ) -> None:
        receiver.answers = [204, hang]
        made = made_by(client, url=receiver.url())
        await asyncio.to_thread(client.webhooks.test, made.id, event_type="response.failed")
        with pytest.raises(BadRequestError, match="timed_out"):
            await asyncio.to_thread(client.webhooks.test, made.id, event_type="response.failed")
        noted = "select data from audit_outbox where subject = $1 and action = $2 order by seq"
        key = ids.parse_webhook_endpoint_id(made.id)
        rows = await execute(quiet_database_url, noted, key, int(Action.WEBHOOK_TESTED))
        assert [orjson.loads(row["data"]) for row in rows] == [
            {"event_type": "response.failed", "reason": reason, "status_code": status}
            for reason, status in (("delivered", 204), ("timed_out", None))
        ]

    async def test_who_does_not_answer_is_told_of(self, client: OpenAI) -> None:
        async with receiving() as gone:
            url = gone.url()
        made = made_by(client, url=url)
        with pytest.raises(BadRequestError, match="did not answer: unreachable") as refused:
            client.webhooks.test(made.id, event_type="response.failed")
        assert refused.value.code == "webhook_test_failed"

    def test_nor_does_it_go_where_nothing_else_goes(self, strict: httpx2.Client) -> None:
        """A name of this machine: what it stands for is looked at, whatever it is called."""
        made = create(strict, url="https://localhost:1/")
        told = refusal(strict.post(f"{ENDPOINTS}/{made['id']}/test", json={"event_type": "response.failed"}))
        assert told.message == "The endpoint did not answer: address_not_allowed."


class TestClient:
    def test_the_official_client_manages_them(self, client: OpenAI) -> None:
        made = made_by(client)
        assert made.signing_secret.startswith("whsec_")
        assert client.webhooks.retrieve(made.id).url == GOOD["url"]
        assert client.webhooks.update(made.id, name="yours").name == "yours"
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != made.signing_secret
        assert [each.id for each in client.webhooks.list()] == [made.id]
        assert client.webhooks.event_types.list().data == [*EVENT_TYPES]
        assert client.webhooks.delete(made.id).deleted
        with pytest.raises(NotFoundError):
            client.webhooks.retrieve(made.id)

    def test_it_lists_page_by_page(self, client: OpenAI) -> None:
        made = [made_by(client).id for _ in range(5)]
        assert [each.id for each in client.webhooks.list(limit=2)] == made[::-1]


class TestLog:
    async def planted(self, url: str, name: str, count: int) -> list[str]:
        """Deliveries of so many ends, oldest first; the first was given up and the second is delivered."""
        keys = [ids.new_uuid() for _ in range(count)]
        await execute(
            url,
            "insert into webhook_deliveries (tenant_id, endpoint_id, event_id, event_type) "
            "select 1, $1, unnest($2::uuid[]), 'response.failed'",
            ids.parse_webhook_endpoint_id(name),
            keys,
        )
        for key, state in zip(keys, (2, 1), strict=False):
            await execute(
                url,
                "update webhook_deliveries set state = $2, due_at = null, ended_at = now() "
                "where event_id = $1",
                key,
                state,
            )
        return [ids.event_id(key) for key in keys]

    async def test_it_is_listed_by_pages_and_by_how_deliveries_stand(
        self, strict: httpx2.Client, quiet_database_url: str
    ) -> None:
        path = f"{ENDPOINTS}/{(name := create(strict)['id'])}/deliveries"
        events = await self.planted(quiet_database_url, name, 5)

        def listed(**query: Any) -> list[str]:
            return [each["id"] for each in strict.get(path, params=query).json()["data"]]

        assert listed() == events[::-1]
        assert listed(order="asc", limit=2) == events[:2]
        assert listed(order="asc", after=events[1]) == events[2:]
        assert listed(after=events[2]) == events[:2][::-1]
        assert listed(status="failed") == events[:1]
        assert listed(status="delivered") == events[1:2]
        assert listed(status="pending", order="asc") == events[2:]
        assert strict.get(path, params={"limit": 4}).json()["has_more"]
        for wrong in ({"status": "x"}, {"after": "evt_x"}, {"after": "we_1"}, {"order": "x"}):
            assert refusal(strict.get(path, params=wrong)).param == next(iter(wrong))

    async def test_a_delivery_is_shown_with_its_attempts_and_replayed(
        self, strict: httpx2.Client, quiet_database_url: str
    ) -> None:
        name = create(strict)["id"]
        event = (await self.planted(quiet_database_url, name, 1))[0]
        path = f"{ENDPOINTS}/{name}/deliveries/{event}"
        found = strict.get(path).json()
        assert found == {
            "id": event,
            "object": "webhook_delivery",
            "webhook_endpoint_id": name,
            "event_type": "response.failed",
            "response_id": event.replace("evt_", "resp_"),
            "status": "failed",
            "created_at": found["created_at"],
            "attempt_count": 0,
            "due_at": None,
            "ended_at": found["ended_at"],
            "attempts": [],
        }
        replayed = strict.post(f"{path}/replay").json()
        assert (replayed["status"], replayed["ended_at"]) == ("pending", None)
        assert strict.get(path).json() == replayed

    def test_of_an_event_that_was_not_theirs_nothing_is_known(self, strict: httpx2.Client) -> None:
        path = f"{ENDPOINTS}/{create(strict)['id']}/deliveries/evt_{'0' * 32}"
        for answer in (strict.get(path), strict.post(f"{path}/replay")):
            told = refusal(answer)
            assert told.message == f"Delivery of event with id 'evt_{'0' * 32}' not found."
