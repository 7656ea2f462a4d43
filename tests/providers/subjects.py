"""The providers under test, and how each is brought to play a case.

A case is a name: an HTTP subject plays the recording of that name; a subject without a wire would build
a context that leads its model to the same outcome.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from app.domain.context import Context
from app.providers.base import Delta, Provider
from app.providers.offline import Offline
from app.providers.openai_chat import OpenAIChat
from app.providers.openai_responses import OpenAIResponses
from app.providers.upstream import Upstream, open_session
from tests.providers.wire import Answer, Wire, wire

RECORDINGS = Path(__file__).parent / "recordings"
ITEM = b'{"id":"msg_1","type":"message","role":"user","status":"completed","content":[{"type":"input_text","text":"Hi"}]}'
SECRET = "sk-very-secret"


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of upstream behind the adapter that speaks to it."""

    name: str
    make: Callable[[aiohttp.ClientSession, Upstream], Provider]
    framing: Any = "chunked"

    def answer(self, case: str, **changes: Any) -> Answer:
        """The recorded bytes of a streamed case."""
        fields = {"framing": self.framing, **changes}
        return Answer((RECORDINGS / self.name / f"{case}.sse").read_bytes(), **fields)

    def whole(self, case: str) -> Answer:
        """The recorded bytes of a case that was not streamed."""
        body = (RECORDINGS / self.name / f"{case}.json").read_bytes()
        return Answer(body, content_type="application/json", framing="length")


SUBJECTS = (
    Subject("openai_responses", OpenAIResponses),
    Subject("openrouter_responses", OpenAIResponses),
    Subject("gateway_responses", OpenAIResponses),
    Subject("openai_chat", OpenAIChat),
    Subject("openrouter_chat", OpenAIChat),
    Subject("vllm_chat", OpenAIChat),
    Subject("ollama_chat", OpenAIChat, framing="close"),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}

ADAPTERS = (BY_NAME["openai_responses"], BY_NAME["openai_chat"])
"""One subject for each adapter, where the matter is the wire and not the dialect."""


def recorded(suffix: str) -> list[tuple[Subject, str]]:
    """Every subject with every case that it has a recording of."""
    return [
        (subject, path.stem)
        for subject in SUBJECTS
        for path in sorted((RECORDINGS / subject.name).glob(f"*{suffix}"))
    ]


def a_context(*, is_streamed: bool = True, items: bytes = ITEM, **params: Any) -> Context:
    return Context(model="a-model", items=(items,), params=params, is_streamed=is_streamed)


@asynccontextmanager
async def connected(subject: Subject, url: str, **settings: Any) -> AsyncGenerator[Provider, None]:
    """The subject's adapter, pointed at `url`, with short pauses between retries."""
    fields: dict[str, Any] = {"backoff_seconds": 0.001, **settings}
    upstream = Upstream("tested", url, api_key=SECRET, **fields)
    provider = subject.make(open_session(), upstream)
    try:
        yield provider
    finally:
        await provider.close()


CALL_WEATHER = '::call get_weather {"city":"Paris"}\n::call get_weather {"city":"Rome"}'

REHEARSALS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("Hi", {}),
    "parallel_tool_calls": (CALL_WEATHER, {}),
    "reasoning": ("::reason Two and two.", {}),
    "refusal": ("::refuse I can't help with that.", {}),
    "structured": ("Hi", {"text": {"format": {"type": "json_object"}}}),
    "cut_by_max_tokens": ("::words 40 0", {"max_output_tokens": 16}),
}
"""The offline model has no wire to play a recording on: what leads it to the same outcome instead."""


def rehearsed(case: str, *, is_streamed: bool) -> AsyncGenerator[Delta, None]:
    text, params = REHEARSALS[case]
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    }
    return Offline().stream(a_context(is_streamed=is_streamed, items=orjson.dumps(item), **params))


@asynccontextmanager
async def playing(
    subject: Subject, *answers: Answer, **settings: Any
) -> AsyncGenerator[tuple[Provider, Wire], None]:
    """The subject's adapter in front of an upstream that gives these answers."""
    async with wire(*answers) as upstream, connected(subject, upstream.url, **settings) as provider:
        yield provider, upstream
