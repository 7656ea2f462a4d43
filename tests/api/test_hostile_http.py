"""Requests that no client means: slow, huge or broken ones get an answer or an end, never a 5xx."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import closing

import httpx2
import orjson
import pytest

from tests.api.conftest import client_of
from tests.compat.chat_model import chat_model
from tests.live import LiveServer
from tests.waiting import patience

TIMEOUT_SECONDS = 0.8
MAX_HEADER_BYTES = 4000


@pytest.fixture(scope="module")
def strict(database_url: str) -> Generator[LiveServer]:
    """Impatient, with small heads, and with an upstream that takes images."""
    with chat_model() as url:
        told = {"name": "told", "protocol": "chat_completions", "base_url": url, "models": ["told"]}
        offline = {"name": "offline", "protocol": "offline", "models": ["offline"]}
        environment = {
            "HOLDFAST_BODY_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
            "HOLDFAST_MAX_HEADER_BYTES": str(MAX_HEADER_BYTES),
            "HOLDFAST_UPSTREAMS": orjson.dumps([offline, told]).decode(),
        }
        with LiveServer(database_url, environment=environment) as live:
            yield live


async def said(server: LiveServer, *pieces: bytes, drips: bytes = b"") -> bytes:
    """What comes back for these bytes until the server hangs up; `drips` are sent one by one meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with patience(), asyncio.TaskGroup() as group:
            for piece in pieces:
                writer.write(piece)
            dripping = group.create_task(_drip(writer, drips))
            answer = await _all(reader)
            dripping.cancel()
        return answer
    finally:
        writer.close()


async def _all(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        while piece := await reader.read(65536):
            got += piece
    except ConnectionResetError:
        pass
    return got


async def _drip(writer: asyncio.StreamWriter, drips: bytes) -> None:
    for drip in drips:
        writer.write(bytes([drip]))
        await asyncio.sleep(TIMEOUT_SECONDS / 5)


def envelope(answer: bytes) -> tuple[int, str]:
    """Status and code of a refusal, in the shape of every other."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id: req_" in head.lower()
    error = orjson.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return int(head.split()[1]), error["code"]


POST = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


class TestSlowness:
    @pytest.mark.parametrize("path", [b"/v1/responses", b"/v1/conversations", b"/v1/responses/input_tokens"])
    async def test_a_body_that_trickles_is_given_up(self, strict: LiveServer, path: bytes) -> None:
        answer = await said(strict, POST % (path, 5000), drips=b" " * 60)
        assert envelope(answer) == (408, "request_timeout")

    async def test_a_body_that_never_comes_is_given_up(self, strict: LiveServer) -> None:
        assert envelope(await said(strict, POST % (b"/v1/responses", 5))) == (408, "request_timeout")

    async def test_a_large_body_may_take_as_long_as_its_size_allows(self, strict: LiveServer) -> None:
        """Three MiB, each within its time, take longer than one may."""
        body = b'{"model":"offline","input":"' + b"x" * (3 << 20) + b'"}'
        reader, writer = await asyncio.open_connection("127.0.0.1", strict.port)
        with closing(writer):
            writer.write(POST % (b"/v1/responses", len(body)))
            began = asyncio.get_running_loop().time()
            for start in range(0, len(body), 1 << 20):
                writer.write(body[start : start + (1 << 20)])
                await writer.drain()
                await asyncio.sleep(TIMEOUT_SECONDS / 3)
            assert asyncio.get_running_loop().time() - began > TIMEOUT_SECONDS
            async with patience():
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def test_a_head_that_trickles_is_given_up(self, strict: LiveServer) -> None:
        answer = await said(strict, b"GET /healthz HTTP/1.1\r\nx: ", drips=b"y" * 60)
        assert envelope(answer) == (408, "request_timeout")

    @pytest.mark.parametrize("drips", [b"", b"\r\n" * 30])
    async def test_a_connection_that_asks_nothing_is_closed(self, strict: LiveServer, drips: bytes) -> None:
        assert await said(strict, drips=drips) == b""

    async def test_what_follows_an_answer_may_not_trickle_for_ever(self, strict: LiveServer) -> None:
        answer = await said(strict, POST % (b"/nowhere", 5000), drips=b" " * 60)
        assert answer.startswith(b"HTTP/1.1 404")

    def test_a_connection_is_kept_for_the_next_request(self, strict: LiveServer) -> None:
        with client_of(strict) as api:
            assert [api.get("/healthz").status_code for _ in range(5)] == [200] * 5


class TestSize:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /v1/models?" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nx: " + b"y" * 5000 + b"\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\n" + b"x: y\r\n" * 3000 + b"\r\n",
            b"GET /v1/models HTTP/1.1\r\n" + b"x" * 5000 + b": y\r\n\r\n",
            b"GET /" + b"x" * 5000,
            b"GET / HTTP/1.1\r\nx: " + b"y" * 5000,
        ],
    )
    async def test_a_head_that_is_too_large_is_refused(self, strict: LiveServer, head: bytes) -> None:
        assert envelope(await said(strict, head)) == (431, "headers_too_large")

    async def test_an_endless_head_is_not_kept(self, strict: LiveServer) -> None:
        head = b"GET / HTTP/1.1\r\nx: " + b"y" * (8 << 20)
        assert (await said(strict, head))[:12] in {b"HTTP/1.1 431", b""}

    async def test_the_largest_head_that_is_allowed_is_served(self, strict: LiveServer) -> None:
        head = b"GET /healthz HTTP/1.1\r\nconnection: close\r\nx: " + b"y" * 3900 + b"\r\n\r\n"
        assert (await said(strict, head)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nx y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: \0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET * HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_hardly_http_is_refused_in_the_envelope(strict: LiveServer, sent: bytes) -> None:
    status, _ = envelope(await said(strict, sent))
    assert 400 <= status < 500


@pytest.mark.parametrize("model", ["offline", "told"])
def test_addresses_in_the_input_are_never_fetched(strict: LiveServer, model: str) -> None:
    """They are the upstream's to fetch: a server that did it would be a way into its own network."""
    with socket.create_server(("127.0.0.1", 0)) as listener, client_of(strict) as api:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/secret"
        parts = [
            {"type": "input_text", "text": "Look."},
            {"type": "input_image", "image_url": url},
            *([{"type": "input_file", "file_url": url}] if model == "offline" else []),
        ]
        body = {"model": model, "input": [{"role": "user", "content": parts}]}
        for _ in range(2):
            answer = api.post("/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            body["previous_response_id"] = answer.json()["id"]
        assert api.post("/v1/responses/input_tokens", json=body | {"stream": None}).status_code in {200, 400}
        items = {"items": [{"role": "user", "content": parts}]}
        assert api.post("/v1/conversations", json=items).status_code == 200
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "text",
    [
        "1e400",
        "-1e400",
        "1" * 5000,
        "1e-400",
        "NaN",
        "Infinity",
        "-Infinity",
        r'"\ud800"',
        r'"\udc00\ud800"',
        r'"\u0000"',
        '{"a":1,"a":2}',
        "[" * 200_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "0x10",
        "01",
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/responses/input_tokens"])
@pytest.mark.parametrize(
    "place", ['"metadata":{"a":%s}', '"input":%s', '"items":%s', '"temperature":%s', '"a":%s']
)
def test_odd_json_anywhere_is_taken_or_refused(api: httpx2.Client, path: str, place: str, text: str) -> None:
    body = '{"model":"offline",' + place % text + "}"
    answer = api.post(path, content=body)
    assert answer.status_code in {200, 400}, answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\0", b"\xc0\x80"])
def test_bytes_that_are_no_text_are_refused(api: httpx2.Client, text: bytes) -> None:
    for path in ("/v1/responses", "/v1/conversations", "/v1/responses/input_tokens"):
        answer = api.post(path, content=b'{"model":"offline","input":"%s"}' % text)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
