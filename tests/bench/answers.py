"""What the canned upstream says: bodies of the Responses API, encoded once for each script.

A model's name is its script, so that one upstream serves every scenario: how many deltas, how many
characters, what it waits before the answer and between two frames of a stream.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

_SAID = (
    "the first thing that she noticed was quiet whoever had lived here before them left in a hurry and taken "
    "clocks along on every wall there paler round where one hung downstairs door moved draught between two "
    "gusts could hear river which nearer than map made her believe put lamp sill opened second of letters "
    "read it once more slowly as if this time might say something else did not by when burned down to blue "
    "point knew what they would have do order nobody going like any so slept since cannot be done later"
)
WORDS = _SAID.split()
ID = b"upstream00000000000000000000000000000000"
"""Stands for what differs from answer to answer: some servers keep an upstream's ids as keys."""

_NAME = re.compile(r"canned-(\d+)-(\d+)-(\d+)-(\d+)$")


def text(characters: int, *, seed: int = 0) -> str:
    """So much of something that compresses no better than prose does."""
    words = random.Random(seed).choices(WORDS, k=characters)
    return " ".join(words)[:characters]


@dataclass(frozen=True)
class Script:
    """How an upstream answers. The defaults are those with which other servers were measured before."""

    deltas: int = 20
    characters: int = 540
    latency_ms: int = 0
    gap_ms: int = 0

    @property
    def model(self) -> str:
        """The name that asks for it."""
        return f"canned-{self.deltas}-{self.characters}-{self.latency_ms}-{self.gap_ms}"

    @property
    def events(self) -> int:
        """How many events a stream of it has."""
        return len(_events(self))


@dataclass(frozen=True)
class Answer:
    """One script's answers with `ID` in them."""

    script: Script
    json: bytes
    frames: tuple[bytes, ...]
    """Of a stream, each as a chunk of HTTP."""
    stream: bytes
    """All of them."""


@lru_cache(maxsize=100)
def answer_of(model: str) -> Answer | None:
    """What a model says; None where its name is no script."""
    numbers = _NAME.match(model)
    if numbers is None:
        return None
    script = Script(*(int(number) for number in numbers.groups()))
    frames = tuple(_chunk(event) for event in _events(script))
    whole = _response(script, "completed", [_message(text(script.characters), "completed")])
    return Answer(script, orjson.dumps(whole), frames, b"".join(frames))


def _chunk(event: Mapping[str, Any]) -> bytes:
    frame = b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))
    return b"%x\r\n%s\r\n" % (len(frame), frame)


def _events(script: Script) -> list[dict[str, Any]]:
    said, opened = text(script.characters), _response(script, "in_progress", [])
    at = {"item_id": _message("", "")["id"], "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = _message(said, "completed")
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
        {"type": "response.output_item.added", "output_index": 0, "item": _message("", "in_progress")},
        {"type": "response.content_part.added", **at, "part": part},
        *(
            {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
            for piece in _pieces(said, script.deltas)
        ),
        {"type": "response.output_text.done", **at, "text": said, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": {**part, "text": said}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": _response(script, "completed", [item])},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _pieces(said: str, count: int) -> Iterator[str]:
    for number in range(count):
        yield said[len(said) * number // count : len(said) * (number + 1) // count]


def _message(said: str, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{ID.decode()}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part] if said else [],
    }


def _response(script: Script, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    is_completed = status == "completed"
    usage = {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 60,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 100,
    }
    return {
        "id": f"resp_{ID.decode()}",
        "object": "response",
        "created_at": 1767225600,
        "status": status,
        "background": False,
        "completed_at": 1767225601 if is_completed else None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": script.model,
        "output": output,
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if is_completed else None,
        "user": None,
        "metadata": {},
    }
