"""Which provider serves which model."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest

from app.domain.context import Context
from app.errors import InvalidRequest
from app.providers.base import Delta, Finished, Started
from app.providers.registry import Entry, Registry
from app.providers.upstream import open_session
from app.resources import _entry
from app.settings import Upstream


class Named:
    """A provider of which only the name and the listed models matter."""

    def __init__(self, name: str, *listed: str) -> None:
        self._name = name
        self._listed = listed
        self.closed_count = 0

    @property
    def name(self) -> str:
        return self._name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        return

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        yield Started(context.model)
        yield Finished("completed")

    async def models(self) -> Sequence[str]:
        return self._listed

    async def close(self) -> None:
        self.closed_count += 1


OPENAI = Named("openai", "gpt-4.1", "gpt-6", "whisper-1")
LOCAL = Named("local", "llama3.2", "gpt-6")


def a_registry() -> Registry:
    return Registry(
        [
            Entry(OPENAI, models=("gpt-*", "o3"), aliases={"smart": "gpt-6"}),
            Entry(
                LOCAL, models=("*",), aliases={"small": "llama3.2", "gpt-small": "llama3.2", "smart": "other"}
            ),
        ]
    )


@pytest.mark.parametrize(
    ("asked", "provider", "model"),
    [
        ("gpt-6", OPENAI, "gpt-6"),
        ("o3", OPENAI, "o3"),
        ("anything", LOCAL, "anything"),
        ("smart", OPENAI, "gpt-6"),
        ("gpt-small", OPENAI, "gpt-small"),
        ("small", LOCAL, "llama3.2"),
    ],
)
def test_the_first_upstream_that_matches_by_alias_or_pattern_serves(
    asked: str, provider: Named, model: str
) -> None:
    route = a_registry().resolve(asked)
    assert (route.provider, route.model) == (provider, model)


@pytest.mark.parametrize("asked", ["x", "GPT-6", "", "gpt"])
def test_an_unknown_model_is_refused_in_openais_words(asked: str) -> None:
    registry = Registry([Entry(OPENAI, models=("gpt-*",))])
    with pytest.raises(InvalidRequest) as raised:
        registry.resolve(asked)
    assert raised.value.envelope()["error"] == {
        "message": f"The requested model '{asked}' does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


LIMITS = {"gpt-6*": 400_000, "gpt-6-mini": 1, "gpt-[45]*": 128_000}


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ("gpt-6", 400_000),
        ("gpt-6-mini", 400_000),
        ("gpt-5.4", 128_000),
        ("GPT-5.4", None),
        ("llama3.2", None),
        ("smart", 400_000),
        ("gpt-4-of-ours", None),
    ],
)
def test_a_context_window_is_that_of_the_upstream_s_own_name_by_the_first_pattern(
    asked: str, tokens: int | None
) -> None:
    aliases = {"smart": "gpt-6", "gpt-4-of-ours": "llama3.2"}
    registry = Registry([Entry(LOCAL, ("*",), aliases, LIMITS)])
    assert registry.resolve(asked).context_window_tokens == tokens


def test_a_context_window_counts_for_its_own_upstream_alone() -> None:
    registry = Registry([Entry(OPENAI, models=("gpt-*",)), Entry(LOCAL, ("*",), {}, {"*": 8_192})])
    assert registry.resolve("gpt-6").context_window_tokens is None
    assert registry.resolve("llama3.2").context_window_tokens == 8_192


async def test_a_configured_context_window_reaches_the_route() -> None:
    values = {"name": "demo", "protocol": "offline", "context_window_tokens": 8_192}
    async with open_session() as session:
        registry = Registry([_entry(Upstream.model_validate(values), session)])
    assert registry.resolve("anything").context_window_tokens == 8_192


async def test_an_upstream_that_compacts_itself_is_known_to_the_route() -> None:
    values = {"name": "demo", "protocol": "responses", "base_url": "http://demo.test/v1"}
    async with open_session() as session:
        for said, expected in ((values, False), ({**values, "compaction": "upstream"}, True)):
            registry = Registry([_entry(Upstream.model_validate(said), session)])
            assert registry.resolve("anything").compacts_itself is expected


async def test_each_name_is_listed_once_with_the_provider_that_serves_it() -> None:
    assert dict(await a_registry().names()) == {
        "smart": "openai",
        "gpt-small": "openai",
        "small": "local",
        "o3": "openai",
        "gpt-4.1": "openai",
        "gpt-6": "openai",
        "llama3.2": "local",
    }
    assert len(await a_registry().names()) == 7


async def test_closing_closes_every_provider() -> None:
    first, second = Named("a"), Named("b")
    await Registry([Entry(first, models=()), Entry(second, models=())]).close()
    assert (first.closed_count, second.closed_count) == (1, 1)
