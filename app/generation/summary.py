"""Have a model sum up what a compaction folds away, through the same interface by which it answers."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from app import ids
from app.domain import compaction_prompt, tokens
from app.domain.compaction import Plan
from app.domain.context import Context
from app.domain.items import NO_ITEMS, InputItems, normalise
from app.domain.response import Draft, Status, complete_usage
from app.errors import UpstreamError
from app.generation.composer import Composer
from app.providers.base import Provider

MAX_TOKENS = 4_096
"""Of a summary: a few pages. It is a quarter of what the context may have, where that is less."""

MAX_OUTPUT_TOKENS = 4_096
"""What a model may spend on it, its reasoning included, unless its context window is small."""

_OVERHEAD_TOKENS = 100
"""Of the question beside its transcript, and of whatever an upstream puts around a message."""

_CARRIED = ("service_tier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "image",
            "safety_identifier", "user")  # fmt: skip
"""The parameters of a request that its summary is asked for with, beside its instructions."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much there is for a summary, in estimated tokens."""

    summary: int
    output: int
    part: int | None
    """For one part of the transcript; None where nobody has said what the model takes."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model made of a conversation, and what that took."""

    text: str
    model: str | None = None
    usage: Mapping[str, Any] | None = None


def room(limit_tokens: int, window_tokens: int | None, instructions: str) -> Room:
    """Share out what a context may have.

    Args:
        limit_tokens: of the context, before it is compacted.
        window_tokens: of the model, if known.
        instructions: what the model is told to do.
    """
    summary = max(1, min(MAX_TOKENS, limit_tokens // 4))
    if window_tokens is None:
        return Room(summary, max(summary, MAX_OUTPUT_TOKENS), None)
    output = max(summary, min(MAX_OUTPUT_TOKENS, window_tokens // 2))
    taken = output + summary + _OVERHEAD_TOKENS + tokens.estimate(instructions.encode())
    return Room(summary, output, window_tokens - taken)


async def summed_up(provider: Provider, context: Context, plan: Plan, limit: Room) -> Summary:
    """The summary of what a plan folds, and of what was summed up before; nothing is asked for nothing.

    A conversation that is longer than the model's window is told in parts, each with the summary of the
    earlier ones.

    Raises:
        UpstreamError: the model refused, failed, or said nothing.
    """
    asked, found = _asking(context, limit), Summary(plan.summary)
    part_bytes = None if limit.part is None else limit.part * tokens.BYTES_PER_TOKEN
    for part in compaction_prompt.parts(plan.folded, part_bytes):
        if part:
            question = compaction_prompt.question(found.text, part, max_words=max(20, limit.summary // 2))
            found = await _told(provider, replace(asked, items=(_message(question).blob,)), limit, found)
    return found


def total(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What several calls took together; what none of them reported is unknown."""
    known = [complete_usage(usage) for usage in usages if usage is not None]
    return _added(known) if known else None


def _asking(context: Context, limit: Room) -> Context:
    carried = {name: context.params[name] for name in _CARRIED if context.params.get(name) is not None}
    params = {
        **carried,
        "instructions": compaction_prompt.instructions(context.params),
        "max_output_tokens": max(16, limit.output),
        "store": False,
    }
    return Context(context.model, (), params, is_streamed=False)


async def _told(provider: Provider, context: Context, limit: Room, before: Summary) -> Summary:
    heard = await _heard(provider, context)
    text = "".join(
        part["text"]
        for item in heard.output
        if item["type"] == "message"
        for part in item["content"]
        if "text" in part
    ).strip()
    if not text:
        raise UpstreamError("The model gave no summary to compact the context with.")
    text = compaction_prompt.fitting(text, limit.summary * tokens.BYTES_PER_TOKEN)
    return Summary(text, heard.model or None, total((before.usage, heard.usage)))


async def _heard(provider: Provider, context: Context) -> Composer:
    """One whole answer."""
    draft = Draft(id=ids.new_uuid(), model="", params={}, input=NO_ITEMS, echo={})
    composer = Composer(draft, is_heard=False)
    async with aclosing(provider.stream(context)) as deltas:
        async for delta in deltas:
            composer.feed(delta)
    composer.close()
    if composer.status is Status.FAILED:
        error = orjson.loads(composer.body)["error"]
        raise UpstreamError(error["message"], code=error["code"])
    return composer


def _message(text: str) -> InputItems:
    return normalise(text, ids.new_uuid())


def _added(values: Sequence[Any]) -> Any:
    """Numbers are added up, within objects too; of anything else the last is taken."""
    first = values[0]
    if isinstance(first, Mapping):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _added([value[name] for value in values if name in value]) for name in names}
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return sum(values) if are_numbers else values[-1]
