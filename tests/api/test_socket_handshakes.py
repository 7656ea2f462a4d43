"""Who asks for a WebSocket and is refused is told so over HTTP (surface notes §10.1)."""

import asyncio

import pytest

from tests.api.asking import CREATE
from tests.api.conftest import client_of
from tests.api.socketing import (
    HANDSHAKE,
    knock,
    refusal,
    upgrade,
)
from tests.live import LiveServer


class TestBefore:
    """Everything that is refused is refused over HTTP, in the envelope, before there is a WebSocket."""

    def test_an_acceptance_names_the_request(self, server: LiveServer) -> None:
        answer = knock(server)
        assert answer.status_code == 101
        assert answer.headers["x-request-id"].startswith("req_")

    def test_no_extension_is_agreed_on(self, server: LiveServer) -> None:
        """A compressed message has no size until it has been unpacked."""
        answer = knock(server, **{"sec-websocket-extensions": "permessage-deflate"})
        assert answer.status_code == 101
        assert "sec-websocket-extensions" not in answer.headers

    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("sec-websocket-version", "12", 400),
            ("sec-websocket-key", "short", 400),
            ("holdfast-on-open-tool-calls", "maybe", 400),
            ("holdfast-conversation-wait", "-1", 400),
            ("idempotency-key", "k", 400),
            ("origin", "https://elsewhere.example", 403),
            ("origin", "null", 403),
            ("x-long", "x" * 10_000, 400),
        ],
    )
    def test_what_is_wrong_with_it_is_said(
        self, server: LiveServer, header: str, value: str, status: int
    ) -> None:
        told, error = refusal(knock(server, **{header: value}))
        assert (told, error["type"]) == (status, "invalid_request_error")
        assert isinstance(error["code"], str)

    def test_an_upgrade_has_no_body(self, server: LiveServer) -> None:
        with client_of(server) as client:
            status, error = refusal(client.request("GET", CREATE, headers=HANDSHAKE, content=b"{}"))
        assert (status, error["code"]) == (400, "invalid_handshake")

    async def test_an_upgrade_is_not_pipelined(self, server: LiveServer) -> None:
        """Two would write to one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" + upgrade())
        said = await reader.read()
        assert b" 101 " not in said
        assert b"invalid_http" in said
        writer.close()

    async def test_a_connection_that_was_used_before_may_be_upgraded(self, server: LiveServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(length)
        writer.write(upgrade())
        assert b" 101 " in await reader.readline()
        writer.close()

    def test_a_page_of_the_server_itself_may(self, server: LiveServer) -> None:
        assert knock(server, origin=f"http://127.0.0.1:{server.port}").status_code == 101

    def test_elsewhere_the_header_asks_for_nothing(self, server: LiveServer) -> None:
        with client_of(server) as client:
            assert client.get("/v1/models", headers=HANDSHAKE).status_code == 200
            assert client.get("/healthz", headers=HANDSHAKE).status_code == 200
            assert client.get(CREATE, headers={**HANDSHAKE, "upgrade": "h2c"}).status_code == 200
