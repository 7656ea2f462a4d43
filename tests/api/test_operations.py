"""For those who run the server, and what is true of every route."""

import asyncio
import re

import httpx2
import pytest

from tests.api.asking import CREATE, MISSING, create, invalid, refusal
from tests.api.gateway import Gateway
from tests.live import LiveServer


class TestHealth:
    def test_a_living_process_says_so(self, api: httpx2.Client) -> None:
        assert api.get("/healthz").json() == {"status": "ok"}

    def test_a_server_with_its_database_is_ready(self, api: httpx2.Client) -> None:
        assert api.get("/readyz").json() == {"status": "ok"}


class TestPostgresAway:
    async def test_the_server_says_so_and_recovers(self, database_url: str) -> None:
        async with Gateway(database_url) as gateway:
            server = LiveServer(gateway.url)
            await asyncio.to_thread(server.start)
            try:
                async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
                    await self.check(client, gateway)
            finally:
                await asyncio.to_thread(server.__exit__)

    async def check(self, client: httpx2.AsyncClient, gateway: Gateway) -> None:
        parent = (await client.post(CREATE, json={"model": "offline", "input": "hi"})).json()["id"]
        await gateway.close()
        for method, path in [
            ("GET", "/readyz"),
            ("GET", CREATE),
            ("GET", f"{CREATE}/{parent}"),
            ("DELETE", f"{CREATE}/{parent}"),
            ("GET", f"{CREATE}/{parent}/input_items"),
        ]:
            self.check_away(await client.request(method, path))
        body = {"model": "offline", "input": "x", "previous_response_id": parent}
        self.check_away(await client.post(CREATE, json=body))
        self.check_away(await client.post(CREATE, json={**body, "stream": True}))
        assert (await client.get("/healthz")).status_code == 200
        assert (
            await client.post(CREATE, json={"model": "offline", "input": "x", "store": False})
        ).status_code == 200
        await gateway.open()
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post(CREATE, json=body)).status_code == 200

    def check_away(self, answer: httpx2.Response) -> None:
        told = refusal(answer)
        assert (told.status, told.type, told.code) == (503, "server_error", "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) > 0


class TestModels:
    def test_the_offline_model_is_listed(self, api: httpx2.Client) -> None:
        listed = api.get("/v1/models").json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["offline"]
        assert api.get("/v1/models/offline").json() == listed["data"][0]

    def test_a_model_has_the_keys_that_clients_read(self, api: httpx2.Client) -> None:
        model = api.get("/v1/models/offline").json()
        assert model.keys() == {"id", "object", "created", "owned_by"}
        assert (model["object"], type(model["created"])) == ("model", int)

    @pytest.mark.parametrize("name", ["nobody", "org/model:free", "ü"])
    def test_an_unknown_model_is_not_found(self, api: httpx2.Client, name: str) -> None:
        words = f"The model '{name}' does not exist"
        assert refusal(api.get(f"/v1/models/{name}")) == invalid(
            words, code="model_not_found", param="model", status=404
        )


class TestUnknownRoutes:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("GET", "/v1"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/responses"),
            ("POST", "/v1/responses/"),
            ("GET", "/v1/responses/"),
            ("GET", f"{CREATE}/{MISSING}/output_items"),
            ("GET", "/v1/threads"),
        ],
    )
    def test_a_path_that_is_not_there(self, api: httpx2.Client, method: str, path: str) -> None:
        assert refusal(api.request(method, path)) == invalid(
            f"Invalid URL ({method} {path})", code="unknown_url", param=None, status=404
        )

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PUT", CREATE, {"GET", "POST"}),
            ("PATCH", f"{CREATE}/{MISSING}", {"GET", "DELETE"}),
            ("POST", f"{CREATE}/{MISSING}", {"GET", "DELETE"}),
            ("DELETE", f"{CREATE}/{MISSING}/input_items", {"GET"}),
            ("DELETE", "/v1/models/offline", {"GET"}),
            ("POST", "/readyz", {"GET"}),
        ],
    )
    def test_a_method_that_is_not_there(
        self, api: httpx2.Client, method: str, path: str, allowed: set[str]
    ) -> None:
        answer = api.request(method, path)
        words = f"Not allowed to {method} on {path}."
        assert refusal(answer) == invalid(words, code="method_not_supported", param=None, status=405)
        assert set(answer.headers["allow"].split(", ")) == allowed


class TestRequestIds:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", CREATE, {"model": "offline", "input": "hi"}, 200),
            ("POST", CREATE, {"model": "offline", "input": "hi", "stream": True}, 200),
            ("POST", CREATE, {}, 400),
            ("POST", CREATE, {"model": "offline", "input": "::fail server_error"}, 500),
            ("POST", CREATE, {"model": "offline", "input": "::fail server_error", "stream": True}, 200),
            ("GET", CREATE, None, 200),
            ("GET", f"{CREATE}/{MISSING}", None, 404),
            ("GET", "/nowhere", None, 404),
            ("PUT", CREATE, None, 405),
            ("GET", "/healthz", None, 200),
            ("GET", "/openapi.json", None, 200),
        ],
    )
    def test_every_answer_has_one(
        self, api: httpx2.Client, method: str, path: str, body: dict[str, object] | None, status: int
    ) -> None:
        answers = [api.request(method, path, json=body) for _ in range(2)]
        assert {answer.status_code for answer in answers} == {status}
        names = {answer.headers["x-request-id"] for answer in answers}
        assert len(names) == 2
        assert all(re.fullmatch("req_[0-9a-f]{32}", name) for name in names)
        assert answers[0].headers["openai-version"] == "2020-10-01"
        assert int(answers[0].headers["openai-processing-ms"]) >= 0

    def test_so_has_a_body_that_is_too_large(self, terse: httpx2.Client) -> None:
        assert terse.post(CREATE, content=b" " * 3000).headers["x-request-id"]


class TestBodySize:
    """The server's limit is 2000 bytes."""

    def body(self, size: int) -> bytes:
        body = b'{"model":"offline","input":"hi"}'
        return body + b" " * (size - len(body))

    def test_the_limit_itself_is_fine(self, terse: httpx2.Client) -> None:
        assert terse.post(CREATE, content=self.body(2000)).status_code == 200

    @pytest.mark.parametrize("is_announced", [True, False])
    def test_beyond_it_the_body_is_refused(self, terse: httpx2.Client, *, is_announced: bool) -> None:
        body = self.body(2001)
        answer = terse.post(CREATE, content=body if is_announced else iter([body[:1500], body[1500:]]))
        words = "Request body is larger than 2000 bytes."
        assert refusal(answer) == invalid(words, code="request_too_large", param=None, status=413)

    def test_the_connection_can_be_used_again(self, terse: httpx2.Client) -> None:
        assert terse.post(CREATE, content=iter([b"x" * 1500] * 3)).status_code == 413
        assert create(terse)["status"] == "completed"
