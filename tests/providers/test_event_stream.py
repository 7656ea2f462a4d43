"""Server-sent events, however they are cut and dressed."""

import pytest

from app.providers.event_stream import EventParser

BODY = (
    b": a comment\n\n"
    b'event: one\nid: 7\nretry: 3\ndata: {"n":1}\n\n'
    b'data:{"n":2}\n\n'
    b'data: {"n":\ndata: 3}\n\n'
    b"event: empty\n\n"
    b"data: [DONE]\n\n"
)
PAYLOADS = [b'{"n":1}', b'{"n":2}', b'{"n":\n3}', b"[DONE]"]


def payloads(*pieces: bytes) -> list[bytes]:
    parser = EventParser()
    found = [payload for piece in pieces for payload in parser.feed(piece)]
    # A blank before or after a payload is none of JSON's business.
    return [b"\n".join(part.strip() for part in payload.split(b"\n")) for payload in [*found, *parser.end()]]


@pytest.mark.parametrize("body", [BODY, BODY.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
def test_a_body_may_be_cut_anywhere(body: bytes) -> None:
    assert payloads(body) == PAYLOADS
    for at in range(len(body)):
        assert payloads(body[:at], body[at:]) == PAYLOADS
    assert payloads(*(bytes([byte]) for byte in body)) == PAYLOADS


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_last_blank_line_may_be_missing(missing: int) -> None:
    assert payloads(BODY[: len(BODY) - missing]) == PAYLOADS


def test_an_empty_body_has_no_events() -> None:
    assert payloads(b"") == []
