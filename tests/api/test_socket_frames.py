"""Frames: how often they are parsed."""

import orjson

from app.api.socket_frames import read, wish

ASKED = {
    "type": "response.create",
    "model": "m",
    "input": [{"role": "user", "content": "hi"}],
    "stream": False,
}


def test_a_frame_is_parsed_once() -> None:
    """It may be as large as a body may be, and all connections wait meanwhile."""
    frame = read(orjson.dumps(ASKED).decode())
    assert frame.params
    assert wish(frame).params["input"] is frame.params["input"]
    assert frame.params == ASKED


def test_one_that_waits_is_kept_as_text() -> None:
    frame = read(orjson.dumps({**ASKED, "previous_response_id": "resp_1"}).decode())
    waiting = frame.set_aside
    assert waiting.params is None
    assert (waiting.parent, waiting.text) == ("resp_1", frame.text)
    assert wish(waiting) == wish(frame)
