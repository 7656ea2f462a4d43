"""A provider that says nothing: the input is kept for the next turn, and no model is asked."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from app.domain import compaction
from app.domain.context import Context
from app.errors import InvalidRequest
from app.providers.base import Delta, Finished, Provider, Started


class Silent:
    """Stands in front of the provider that will serve the next turn, which refuses what it must refuse.

    An order to compact cannot be carried out by saying nothing.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def name(self) -> str:
        return self._provider.name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        if compaction.is_triggered(items):
            place = f"input[{len(items) - 1}]"
            raise InvalidRequest(
                f"Unsupported parameter: '{place}' orders to compact, which generates, while 'generate' or "
                "'prompt_cache_options.prewarm' says not to.",
                code="unsupported_parameter",
                param=place,
            )
        self._provider.refuse(params, items)

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:  # noqa: ARG002 - nobody sees it
        yield Started()
        yield Finished("completed", usage={})

    async def models(self) -> Sequence[str]:
        return await self._provider.models()

    async def close(self) -> None:
        await self._provider.close()
