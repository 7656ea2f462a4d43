"""How a request asks for OpenRouter's dialect, and where it is spoken; looser bounds; the default model."""

from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest

from app import ids
from tests.api.asking import CREATE, MISSING, create, frames, invalid, refusal, stream, text
from tests.api.conftest import client_of
from tests.live import LiveServer

ROUTER = {"Holdfast-Dialect": "openrouter"}
OPENAI = {"Holdfast-Dialect": "openai"}


@pytest.fixture(scope="module")
def loose(database_url: str) -> Generator[httpx2.Client]:
    """As some gateways are: bounds are loose, and a model need not be named."""
    environment = {
        "HOLDFAST_LOOSE_BOUNDS": "true",
        "HOLDFAST_DEFAULT_MODEL": "offline",
        "HOLDFAST_DIALECT": "openrouter",
    }
    with LiveServer(database_url, environment=environment) as server, client_of(server) as client:
        yield client


def undressed(response: dict[str, Any]) -> dict[str, Any]:
    """The same without what the dialect adds, where nobody told a cost."""
    told = dict(response)
    assert told.pop("output_text") == text(told)
    if told["usage"]:
        told["usage"] = dict(told["usage"])
        assert told["usage"].pop("cost") is None
    return told


class TestHeader:
    def test_what_is_stored_is_the_same_whoever_asks(self, api: httpx2.Client) -> None:
        made = api.post(CREATE, json={"model": "offline", "input": "hi"}, headers=ROUTER).json()
        path = f"{CREATE}/{made['id']}"
        plain = api.get(path).json()
        assert "output_text" not in plain
        assert "cost" not in plain["usage"]
        assert undressed(made) == plain
        assert api.get(path, headers=ROUTER).json() == made

    def test_every_event_that_carries_a_response_has_it(self, api: httpx2.Client) -> None:
        body = {"model": "offline", "input": "hi", "stream": True}
        raw = api.post(CREATE, json=body, headers=ROUTER)
        events = frames(raw.content)
        carrying = [each.data["response"] for each in events if "response" in each.data]
        assert len(carrying) == 3
        for response in carrying:
            assert undressed(response)
        assert api.get(f"{CREATE}/{carrying[-1]['id']}", headers=ROUTER).json() == carrying[-1]
        assert raw.content.endswith(b"data: [DONE]\n\n")
        plain = frames(stream(api))
        assert [each.event for each in events] == [each.event for each in plain]

    def test_a_list_has_texts_where_it_has_output(self, api: httpx2.Client) -> None:
        made = create(api)
        bare = api.get(CREATE, headers=ROUTER, params={"limit": 1}).json()
        assert "output_text" not in bare["data"][0]
        assert bare["data"][0]["usage"]["cost"] is None
        query = {"limit": 1, "include": "output"}
        whole = api.get(CREATE, headers=ROUTER, params=query).json()
        assert whole["data"][0]["output_text"] == text(made)

    def test_a_replayed_answer_too(self, api: httpx2.Client) -> None:
        headers = {"idempotency-key": ids.new_uuid().hex}
        body = {"model": "offline", "input": "hi"}
        plain = api.post(CREATE, json=body, headers=headers).json()
        again = api.post(CREATE, json=body, headers=headers | ROUTER)
        assert again.headers["idempotent-replayed"] == "true"
        assert undressed(again.json()) == plain

    @pytest.mark.parametrize("value", ["", "OpenRouter", "x", "openai, openrouter"])
    def test_another_value_is_refused_before_anything_is_done(self, api: httpx2.Client, value: str) -> None:
        before = api.get(CREATE, params={"limit": 1}).json()["first_id"]
        headers = {"Holdfast-Dialect": value}
        message = (
            f"Invalid header 'Holdfast-Dialect': '{value}'. Supported values are: 'openai' and 'openrouter'."
        )
        expected = invalid(message, param="Holdfast-Dialect")
        for method, path in (
            ("POST", CREATE),
            ("GET", CREATE),
            ("GET", f"{CREATE}/{MISSING}"),
            ("POST", f"{CREATE}/{MISSING}/cancel"),
        ):
            body = {"model": "offline", "input": "hi"} if path == CREATE and method == "POST" else None
            assert refusal(api.request(method, path, json=body, headers=headers)) == expected
        assert api.get(CREATE, params={"limit": 1}).json()["first_id"] == before

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", f"{CREATE}/{MISSING}", 404),
            ("GET", f"{CREATE}?limit=0", 400),
            ("PUT", CREATE, 405),
            ("GET", "/v1/nothing", 404),
            ("DELETE", f"{CREATE}/{MISSING}", 404),
            ("POST", "/v1/conversations/x", 400),
        ],
    )
    def test_every_refusal_has_its_status_as_code(
        self, api: httpx2.Client, method: str, path: str, status: int
    ) -> None:
        plain, theirs = api.request(method, path), api.request(method, path, headers=ROUTER)
        assert plain.status_code == theirs.status_code == status
        error = theirs.json()["error"]
        assert error["code"] == status
        assert {"message": error["message"], **error["metadata"]} == plain.json()["error"]
        assert {**plain.headers, "x": ""}.keys() == {**theirs.headers, "x": ""}.keys()

    def test_a_failed_generation_too(self, api: httpx2.Client) -> None:
        body = {"model": "offline", "input": "::fail server_error"}
        theirs = api.post(CREATE, json=body, headers=ROUTER)
        assert theirs.json()["error"]["code"] == theirs.status_code == 500
        ended = frames(api.post(CREATE, json={**body, "stream": True}, headers=ROUTER).content)[-1]
        assert ended.event == "response.failed"
        assert ended.data["response"]["error"]["code"] == "server_error"
        assert undressed(ended.data["response"])

    def test_the_header_goes_before_the_settings(self, loose: httpx2.Client) -> None:
        body = {"input": "hi"}
        assert "output_text" in loose.post(CREATE, json=body).json()
        assert "output_text" not in loose.post(CREATE, json=body, headers=OPENAI).json()


class TestGateway:
    @pytest.mark.parametrize("sent", [{}, {"model": None}])
    def test_a_model_need_not_be_named(self, loose: httpx2.Client, sent: dict[str, Any]) -> None:
        answer = loose.post(CREATE, json={"input": "hi", **sent})
        assert answer.json()["model"] == "offline"

    @pytest.mark.parametrize(
        ("name", "value"),
        [("max_output_tokens", 0), ("max_output_tokens", 15), ("max_tool_calls", 0), ("top_logprobs", 21)],
    )
    def test_bounds_are_loose_where_the_settings_say_so(
        self, api: httpx2.Client, loose: httpx2.Client, name: str, value: int
    ) -> None:
        body = {"model": "offline", "input": "hi", name: value}
        made = loose.post(CREATE, json=body)
        assert made.status_code == 200, made.text
        assert made.json()[name] == value
        assert refusal(api.post(CREATE, json=body)).param == name

    @pytest.mark.parametrize("name", ["max_output_tokens", "max_tool_calls", "top_logprobs"])
    @pytest.mark.parametrize("value", [-1, "1", True, 1.5, [], -(2**70), 2**70])
    def test_and_no_looser(self, loose: httpx2.Client, name: str, value: Any) -> None:
        body = (
            orjson.dumps({"input": "hi"})[:-1]
            + f',"{name}":{orjson.dumps(value).decode() if not isinstance(value, int) or isinstance(value, bool) else value}}}'.encode()
        )
        answer = loose.post(CREATE, content=body, headers=OPENAI)
        assert refusal(answer).param == name

    def test_the_largest_is_as_large_as_a_gateways(self, loose: httpx2.Client) -> None:
        for name in ("max_output_tokens", "max_tool_calls"):
            made = loose.post(CREATE, json={"input": "hi", name: 2**31 - 1})
            assert made.json()[name] == 2**31 - 1
