"""Bodies of creates for fuzzing: valid ones, and what a careless or hostile client makes of them."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from tests.api.test_validation_shapes import CHOICES, FULL_ITEMS, MINIMAL_ITEMS, TOOLS, TURN

FUNCTIONS = [tool for tool in TOOLS if tool["type"] in {"function", "custom", "namespace"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 3},
        "b": {"enum": ["x", None]},
        "c": {"$ref": "#/$defs/c"},
    },
    "required": ["a", "b"],
    "$defs": {"c": {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1}},
}
PARENT = "resp_" + "0" * 32
"""Stands for a stored response: a test puts a real one in its place."""

EXTRAS: dict[str, list[Any]] = {
    "stream": [True, False],
    "store": [True, False],
    "background": [True, False],
    "instructions": ["Be brief.", ""],
    "include": [["message.output_text.logprobs"], ["message.input_image.image_url", "reasoning.encrypted_content"]],
    "metadata": [{"a": "b"}, {}],
    "tools": [FUNCTIONS, TOOLS],
    "tool_choice": CHOICES,
    "parallel_tool_calls": [False],
    "max_output_tokens": [16, 2**40],
    "max_tool_calls": [1],
    "temperature": [0, 1.5],
    "top_p": [0.5],
    "top_logprobs": [0, 3],
    "reasoning": [{"effort": "low", "summary": "auto"}, {}],
    "text": [
        {"format": {"type": "json_object"}, "verbosity": "low"},
        {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
    ],
    "truncation": ["auto"],
    "service_tier": ["fast"],
    "stream_options": [{"include_obfuscation": False}],
    "previous_response_id": [PARENT],
    "user": ["u"],
    "prompt_cache_options": [{"mode": "explicit", "ttl": "12h"}],
    "context_management": [[{"type": "compaction", "compact_threshold": 1000}]],
}  # fmt: skip

# Every character there is: lone surrogates, NUL and other controls, and those outside the first plane.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
IDS = st.sampled_from(
    ["", "resp_", "resp_" + "a" * 32, "RESP_" + "a" * 32, "msg_\0", "msg_" + "0" * 61, "x" * 2000, "call_1"]
)
NUMBERS = st.sampled_from(
    [0, -1, 1.0, 0.1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0]
) | st.sampled_from([float("nan"), float("inf")])
LEAVES = st.none() | st.booleans() | NUMBERS | IDS | TEXT | st.integers() | st.floats()
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)

Path = tuple[str | int, ...]


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """A body that keeps to the schema; the server may still refuse what it asks for."""
    items = st.lists(st.sampled_from(MINIMAL_ITEMS + FULL_ITEMS + TURN), min_size=1, max_size=4)
    extras = draw(st.lists(st.sampled_from(sorted(EXTRAS)), max_size=4, unique=True))
    body = {"model": "offline", "input": draw(items | TEXT)}
    return copy.deepcopy(body | {name: draw(st.sampled_from(EXTRAS[name])) for name in extras})


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A valid body with up to three things wrong anywhere in it."""
    body = draw(valid())
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(body))
        # The deeper the rarer, were they all alike: what is wrong at the top is found first and hides it.
        inner = [place for place in places if len(place) > 1]
        if places := inner if inner and draw(st.integers(0, 3)) else places:
            draw(st.sampled_from(MUTATIONS))(draw, body, draw(st.sampled_from(places)))
    return body


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Bytes that were a body once."""
    body = encode(draw(valid() | mutated()), is_ascii=draw(st.booleans()))
    place = draw(st.integers(0, len(body)))
    wrong = st.sampled_from(
        [b"\xff", b"\xed\xa0\x80", b"\0", b'"', b"}", b"1e999", b"[" * 2000, b"\xef\xbb\xbf"]
    )
    return draw(
        st.sampled_from([
            body[:place],
            body[:place] + draw(wrong) + body[place:],
            body[:-1] + b"," + body[1:],
            b"[" + body + b"]",
            body + body,
        ])
    )  # fmt: skip


def encode(body: Any, *, is_ascii: bool = True) -> bytes:
    """As JSON of the lax kind: NaN, infinities, and surrogates either escaped or as broken UTF-8."""
    return json.dumps(body, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path to everything inside a body."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _holder(body: Any, path: Path) -> Any:
    for key in path[:-1]:
        body = body[key]
    return body


def _replace(draw: st.DrawFn, body: Any, path: Path) -> None:
    _holder(body, path)[path[-1]] = draw(ANYTHING)


def _drop(_: st.DrawFn, body: Any, path: Path) -> None:
    del _holder(body, path)[path[-1]]


def _add(draw: st.DrawFn, body: Any, path: Path) -> None:
    holder = _holder(body, path)
    if isinstance(holder, dict):
        holder[draw(TEXT | st.sampled_from(["type", "id", "status", "role", "content"]))] = draw(ANYTHING)
    else:
        holder.insert(path[-1], draw(ANYTHING))


def _repeat(draw: st.DrawFn, body: Any, path: Path) -> None:
    _holder(body, path)[path[-1]] = [_holder(body, path)[path[-1]]] * draw(st.sampled_from([1, 2, 200]))


def _bury(draw: st.DrawFn, body: Any, path: Path) -> None:
    """Nest a value deeply, around every limit that there is."""
    value = _holder(body, path)[path[-1]]
    for _ in range(draw(st.sampled_from([1, 150, 190, 195, 196, 197, 198, 199, 200, 201, 250, 300, 800]))):
        value = [value]
    _holder(body, path)[path[-1]] = value


MUTATIONS: list[Callable[[st.DrawFn, Any, Path], None]] = [_replace, _replace, _drop, _add, _repeat, _bury]
