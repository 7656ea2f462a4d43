"""Which provider serves which model."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.domain import prompts
from app.errors import InvalidRequest
from app.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Entry:
    """A provider and the names under which it is asked."""

    provider: Provider
    models: Sequence[str]
    """Names and patterns (`*`, `?`, `[…]`) of the upstream's own models."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of ours for models of the upstream."""
    context_window_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    """From names and patterns of the upstream's own models to their limits; the first match counts."""
    compacts_itself: bool = False
    """Whether compaction is left to the upstream."""

    def matches(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def served(self, model: str) -> str | None:
        """What the upstream calls `model`, if it serves it; its alias goes before its patterns."""
        return self.aliases.get(model) or (model if self.matches(model) else None)

    def window(self, served: str) -> int | None:
        """The context window of one of the upstream's own models, in tokens."""
        limits = self.context_window_tokens.items()
        return next((tokens for pattern, tokens in limits if fnmatchcase(served, pattern)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """Whom to ask, and for which model."""

    provider: Provider
    model: str
    context_window_tokens: int | None = None
    """How much the model takes, output included; None if nobody has said, and then nothing is checked."""
    compacts_itself: bool = False
    """Whether the upstream is asked to compact its context, instead of us."""

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """As `Provider.refuse`, but `truncation` is our own business where the window is known, and what a
        prompt says is looked at, too: as `instructions`, where a response shows it.
        """
        if self.context_window_tokens is not None:
            params = {name: value for name, value in params.items() if name != "truncation"}
        if said := prompts.said(params):
            self._refuse_prompt(said)
        self.provider.refuse(params, items)

    def _refuse_prompt(self, said: Sequence[Mapping[str, Any]]) -> None:
        try:
            self.provider.refuse({}, said)
        except InvalidRequest as error:
            if not (error.param or "").startswith("input["):
                raise
            message, param = (
                text.replace("input[", "instructions[", 1) for text in (error.message, error.param or "")
            )
            raise InvalidRequest(message, code=error.code, param=param) from None


class Registry:
    """The providers in order of precedence."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    def resolve(self, model: str) -> Route:
        """The first provider that serves `model`, by an alias or by a pattern.

        Raises:
            InvalidRequest: nobody serves it; param `model`, code `model_not_found`.
        """
        for entry in self._entries:
            if (served := entry.served(model)) is not None:
                return Route(entry.provider, served, entry.window(served), entry.compacts_itself)
        raise unknown_model(model)

    async def names(self) -> Sequence[tuple[str, str]]:
        """Each model that may be asked for, with the name of the provider that would serve it."""
        listings = await asyncio.gather(*(entry.provider.models() for entry in self._entries))
        named = [alias for entry in self._entries for alias in entry.aliases]
        for entry, listed in zip(self._entries, listings, strict=True):
            named += [model for model in entry.models if not _is_pattern(model)]
            named += [model for model in listed if entry.matches(model)]
        return [(model, self.resolve(model).provider.name) for model in dict.fromkeys(named)]

    async def close(self) -> None:
        """Close every provider. Idempotent."""
        for entry in self._entries:
            await entry.provider.close()


def unknown_model(model: str) -> InvalidRequest:
    return InvalidRequest(
        f"The requested model '{model}' does not exist.", code="model_not_found", param="model"
    )


def _is_pattern(model: str) -> bool:
    return any(sign in model for sign in "*?[")
