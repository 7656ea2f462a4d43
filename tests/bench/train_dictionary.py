"""Train the dictionary that stored turns are compressed with, on made-up turns.

    python -m tests.bench.train_dictionary app/store/dictionary_2.zstd

A dictionary is data that rows depend on: a shipped version is never changed, a better one gets the
next number. Its text comes from the standard library's docstrings; nothing of any customer is in it.
"""

import random
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import orjson
import zstandard

from app import ids
from app.api.create import to_draft
from app.domain.response import Status, snapshot

SIZE_BYTES = 32 * 1024
SAMPLES = 6000
MODELS = (
    "gpt-5.6-terra",
    "gpt-5.4-mini-2026-03-05",
    "openai/gpt-5.4",
    "anthropic/claude-sonnet-5",
    "qwen3-32b",
    "offline",
)

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location.",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City and country, e.g. Paris, France"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["location"],
        "additionalProperties": False,
    },
    "strict": True,
}


def sentences() -> list[str]:
    """Plain technical English: the language reference that comes with Python."""
    text = " ".join(" ".join(topics.values()).split())
    return sorted({part.strip() for part in text.split(". ") if 30 < len(part) < 300 and part.isascii()})


def turn(words: list[str], rng: random.Random) -> tuple[bytes, bytes]:
    """The body and the items of one invented turn."""
    say = lambda low, high: ". ".join(rng.choices(words, k=rng.randint(low, high))) + "."  # noqa: E731
    params: dict[str, Any] = {"model": rng.choice(MODELS), "input": say(1, 4)}
    if rng.random() < 0.6:
        params["previous_response_id"] = ids.response_id(ids.new_uuid())
    if rng.random() < 0.4:
        params["instructions"] = "You are a helpful assistant. " + say(1, 3)
    if rng.random() < 0.3:
        params |= {"tools": [TOOL], "tool_choice": "auto"}
    if rng.random() < 0.3:
        params |= {"metadata": {"user_id": str(rng.randint(1, 9999))}, "temperature": 0.7}
    draft = to_draft(params)
    items = list(draft.input.items)
    name = lambda kind: ids.item_id(kind, draft.id, len(items))  # noqa: E731
    if rng.random() < 0.2:
        items.append(
            {
                "id": name("reasoning"),
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": say(1, 2)}],
            }
        )
    if rng.random() < 0.2:
        items.append(
            {
                "id": name("function_call"),
                "type": "function_call",
                "call_id": ids.call_id(),
                "name": "get_weather",
                "arguments": '{"location":"Paris"}',
                "status": "completed",
            }
        )
    else:
        part = {"type": "output_text", "text": say(2, 8), "annotations": [], "logprobs": []}
        items.append(
            {
                "id": name("message"),
                "type": "message",
                "role": "assistant",
                "content": [part],
                "status": "completed",
            }
        )
    usage = {"input_tokens": rng.randint(9, 9999), "output_tokens": rng.randint(9, 999)}
    body = snapshot(
        draft,
        status=Status.COMPLETED,
        usage=usage,
        completed_at=ids.created_at(draft.id) + rng.randint(0, 30),
    )
    return orjson.dumps(body), orjson.dumps(items)[1:-1]


def main() -> None:
    rng, words = random.Random(7), sentences()
    samples: list[Any] = [part for _ in range(SAMPLES) for part in turn(words, rng)]
    dictionary = zstandard.train_dictionary(SIZE_BYTES, samples, level=3)
    Path(sys.argv[1]).write_bytes(dictionary.as_bytes())
    plain, packed = zstandard.ZstdCompressor(level=3), zstandard.ZstdCompressor(level=3, dict_data=dictionary)
    fresh = [part for _ in range(500) for part in turn(words, rng)]
    sizes = [
        sum(map(len, fresh)),
        sum(len(plain.compress(s)) for s in fresh),
        sum(len(packed.compress(s)) for s in fresh),
    ]
    print(
        f"bytes a turn: {sizes[0] / 500:.0f} plain, {sizes[1] / 500:.0f} zstd, {sizes[2] / 500:.0f} with it"
    )


if __name__ == "__main__":
    main()
