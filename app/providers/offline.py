"""The built-in model: deterministic, without a network, and good at pretending.

It tells in one line what it was given, so that chaining is visible, and otherwise does what an upstream
may do: call tools, fit a schema, think, refuse, stall, fail and die. Rehearsal lines in the last user
message ask for that (`offline_script`). The same context always gives the same deltas.

A token is a word. Input tokens are what `app.domain.tokens` estimates of the items and of what stands
beside them, as `/input_tokens` counts them, so they grow along a chain.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from app.domain.context import Context
from app.errors import UpstreamError, UpstreamReport
from app.providers import offline_script, offline_tools
from app.providers.base import Delta, InputDelta, ItemFinished, Started, TextDelta
from app.providers.offline_answer import Answer, compose, structured
from app.providers.offline_pieces import ending, word_count
from app.providers.offline_view import last_message

MODEL = "offline"

_WORDS_AT_A_TIME = 256
"""How many words are said before others on the event loop have their turn."""

_CARRIED = frozenset(
    {
        # The server's own business.
        *("model", "store", "background", "stream", "stream_options", "metadata", "include"),
        *("previous_response_id", "conversation", "prompt", "type", "stream_id", "generate"),
        # Obeyed. There are no hosted tools whose calls `max_tool_calls` could limit.
        *("instructions", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls"),
        *("max_output_tokens", "text", "top_logprobs"),
        # True of a model without chance, cache, effort, accounts or a context window, whatever they say.
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "reasoning", "truncation"),
        *("prompt_cache_key", "prompt_cache_retention", "service_tier", "safety_identifier", "user"),
    }
)
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m", "prewarm": False},
    "image": {"context_compression": "auto"},
    "multi_agent": {"enabled": False},
}
_REFUSED_ITEMS = frozenset({"compaction_trigger", "configuration_update"})


class Offline:
    """A provider of one model."""

    def __init__(self, name: str = "offline") -> None:
        self.name = name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse hosted tools, what only a hosted service has, and a malformed rehearsal line."""
        for param, value in params.items():
            if param not in _CARRIED and value is not None and not _is_default(param, value):
                raise offline_tools.unsupported(param)
        for index, item in enumerate(items):
            if item.get("type") in _REFUSED_ITEMS:
                raise offline_tools.unsupported(f"input[{index}].type")
            if item.get("type") == "additional_tools":
                offline_tools.declared(item["tools"], f"input[{index}].tools")
        offline_tools.declared(params.get("tools") or (), "tools")
        offline_tools.choice(params.get("tool_choice"))
        text_format = (params.get("text") or {}).get("format") or {}
        if text_format.get("type") == "json_schema":
            structured(text_format["schema"], "", "text.format.schema")
        offline_script.read(last_message(items))

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        """Say the answer, word by word or, if nobody listens, item by item in the same time."""
        answer = compose(context)
        yield Started(model=context.model)
        await _pause(answer.script.sleep_seconds or None)
        for seconds, delta in _word_by_word(answer) if context.is_streamed else _item_by_item(answer):
            await _pause(seconds)
            if delta is not None:
                yield delta
        if answer.finished is None:
            raise UpstreamError(
                "The connection to the model was lost.",
                report=UpstreamReport(self.name, detail="dropped, as the rehearsal line asked"),
            )
        yield answer.finished

    async def models(self) -> Sequence[str]:
        """The one there is."""
        return [MODEL]

    async def close(self) -> None:
        """Nothing was opened."""


def _word_by_word(answer: Answer) -> Iterator[tuple[float | None, Delta]]:
    """The deltas, each with the seconds to wait before it."""
    pause, said = answer.script.pause_seconds, 0
    for slot, piece in enumerate(answer.pieces):
        for delta in piece.deltas(slot):
            is_word = isinstance(delta, TextDelta | InputDelta)
            has_turn = is_word and said and (pause or said % _WORDS_AT_A_TIME == 0)
            said += is_word
            yield pause if has_turn else None, delta
        if answer.finished is not None or not piece.is_cut:
            for delta in ending(slot, piece):
                yield None, delta


def _item_by_item(answer: Answer) -> Iterator[tuple[float | None, Delta | None]]:
    """The finished items, each after the time that its words would have taken; None for one cut off."""
    pause, said = answer.script.pause_seconds, 0
    for slot, piece in enumerate(answer.pieces):
        words = word_count([piece])
        seconds = pause * (words if said else max(words - 1, 0))
        said += words
        is_finished = answer.finished is not None or not piece.is_cut
        yield seconds or None, ItemFinished(slot, piece.item()) if is_finished else None


async def _pause(seconds: float | None) -> None:
    """Wait; for 0 seconds, let others have their turn; for None, not even that."""
    if seconds is not None:
        await asyncio.sleep(seconds)


def _is_default(param: str, value: Any) -> bool:
    return isinstance(value, Mapping) and value.items() <= _DEFAULTS.get(param, {}).items()
