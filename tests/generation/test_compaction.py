"""The wrapped provider: what it asks, what it hands on, and when it keeps out of the way."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import orjson
import pytest

from app.domain.compaction import COMPACTION, TRIGGER, Memory
from app.domain.compaction_prompt import PROMPT
from app.domain.compaction_seals import NO_SEALS, MemorySeals
from app.domain.context import Context
from app.domain.items import join
from app.domain.prompts import RENDERED
from app.errors import InvalidRequest, UpstreamError
from app.generation.compaction import Compaction
from app.generation.summary import room, total
from app.providers.base import (
    Delta,
    Finished,
    ItemFinished,
    ItemStarted,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from app.providers.offline import Offline
from app.providers.registry import Route
from tests.builders import a_draft
from tests.scripted import DONE, USAGE, ScriptedProvider, answer

Json = dict[str, Any]
SEALS = MemorySeals(bytes(range(32)))
ASKED: Json = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
ORDER: Json = {"type": TRIGGER, "id": "cmpt_1"}


def said(text: str, role: str = "user") -> Json:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"id": "msg_1", "type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def long(text: str, tokens: int = 1_200) -> str:
    return text + " " + "word " * (tokens * 4 // 5)


class Answering:
    """Plays one list of deltas after the other, and remembers what it was asked."""

    name = "answering"

    def __init__(self, *answers: Sequence[Delta | Exception]) -> None:
        self.answers = list(answers)
        self.contexts: list[Context] = []
        self.refused: list[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]] = []
        self.is_closed = False

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        self.refused.append((params, items))

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        self.contexts.append(context)
        for step in self.answers.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step

    async def models(self) -> Sequence[str]:
        return ["a-model"]

    async def close(self) -> None:
        self.is_closed = True


def spoken(text: str) -> list[Delta]:
    return [Started("a-model-1"), ItemFinished(0, said(text, "assistant")), Finished("completed", USAGE)]


def wrapped(
    provider: Any, *items: Json, window: int | None = None, seals: MemorySeals = SEALS, **route: Any
) -> Any:
    """The provider as a create with this new input gets it."""
    draft = a_draft(input=list(items) or "Hi")
    return (
        Compaction(seals).prepared(draft, Route(provider, "a-model", window, **route), "default")[1].provider
    )


def context(history: Sequence[Json], new: Sequence[Json], **params: Any) -> Context:
    blobs = [join(history), join(new)] if history else [join(new)]
    return Context("a-model", tuple(blobs), {**ASKED, **params}, is_streamed=False)


async def heard(provider: Any, given: Context) -> list[Delta]:
    return [delta async for delta in provider.stream(given)]


def texts(given: Context) -> list[str]:
    items = orjson.loads(b"[" + given.joined() + b"]")
    return [item["content"][0]["text"] for item in items]


class TestOutOfTheWay:
    async def test_a_plain_context_is_the_upstream_s_own(self) -> None:
        """Not a delta passes through anything of ours."""
        provider = ScriptedProvider(answer())
        plain = Context("a-model", (join([said("a")]), join([said("b")])), {}, is_streamed=True)
        stream = wrapped(provider).stream(plain)
        assert stream.ag_code is ScriptedProvider.stream.__code__
        await stream.aclose()

    async def test_below_the_threshold_only_the_parameter_is_missing(self) -> None:
        provider = Answering(spoken("b"))
        assert await heard(wrapped(provider), context([], [said("a")])) == spoken("b")
        assert provider.contexts[0].params == {}
        assert texts(provider.contexts[0]) == ["a"]

    async def test_everything_else_is_the_upstream_s(self) -> None:
        provider = Answering()
        one = wrapped(provider)
        assert (one.name, await one.models()) == ("answering", ["a-model"])
        await one.close()
        assert provider.is_closed

    def test_it_is_asked_to_refuse_what_is_not_ours(self) -> None:
        provider = Answering()
        wrapped(provider).refuse({**ASKED, "top_p": 1}, [said("a"), ORDER])
        [(params, items)] = provider.refused
        assert params == {"top_p": 1}
        assert [item["type"] for item in items] == ["message", "message"]
        with pytest.raises(InvalidRequest, match="seal_key"):
            wrapped(provider, seals=NO_SEALS).refuse(ASKED, [said("a")])
        wrapped(provider, seals=NO_SEALS).refuse({}, [said("a")])


class TestCompacted:
    async def test_the_summary_is_asked_of_the_same_model_first(self) -> None:
        provider = Answering(spoken("the summary"), spoken("the answer"))
        params = {
            "instructions": "Be brief.",
            "service_tier": "flex",
            "temperature": 1,
            "tools": [{"type": "x"}],
        }
        await heard(
            wrapped(provider), context([said(long("a")), said("b", "assistant")], [said("c")], **params)
        )
        asked, main = provider.contexts
        assert asked.model == main.model == "a-model"
        assert asked.params["instructions"].startswith(PROMPT)
        assert asked.params.keys() == {"instructions", "max_output_tokens", "service_tier", "store"}
        assert "[assistant] b" in texts(asked)[0]
        assert "[user] c" not in texts(asked)[0]
        assert main.params == params
        assert [text.split()[0] for text in texts(main)] == ["Summary", "c"]

    @pytest.mark.parametrize("is_long", [True, False], ids=["folds", "was folded"])
    async def test_what_a_prompt_says_is_neither_folded_nor_left_out(self, is_long: bool) -> None:  # noqa: FBT001
        """It is said anew in every turn, as instructions are."""
        provider = Answering(spoken("the summary"), spoken("b"))
        before: Json = said("b", "assistant")
        if not is_long:
            memory = SEALS.seal(Memory(summary="the summary"), "default")
            before = {"type": COMPACTION, "id": "cmp_1", "encrypted_content": memory}
        params = ASKED | {"prompt": {"id": "pmpt_a", RENDERED: [said("rules", "developer")]}}
        history = [said(long("a")) if is_long else said("a"), before]
        blobs = join([said("rules", "developer")]), join(history), join([said("c")])
        await heard(wrapped(provider), Context("a-model", blobs, params, is_streamed=False))
        assert [text.split()[0] for text in texts(provider.contexts[-1])] == ["rules", "Summary", "c"]
        assert not is_long or "rules" not in texts(provider.contexts[0])[0]

    async def test_the_item_stands_before_all_others_and_usage_is_added_up(self) -> None:
        said_more: list[Delta] = [
            Started("a-model-1"),
            ItemStarted(0, {"type": "message", "role": "assistant"}),
            PartStarted(0, 0, "output_text"),
            TextDelta(0, 0, "x"),
            DONE,
        ]
        provider = Answering(spoken("the summary"), said_more)
        deltas = await heard(
            wrapped(provider), context([said(long("a")), said("b", "assistant")], [said("c")])
        )
        assert [type(delta) for delta in deltas] == [
            Started, ItemStarted, Progress, ItemFinished, ItemStarted, PartStarted, TextDelta, Finished,
        ]  # fmt: skip
        assert [getattr(delta, "slot", None) for delta in deltas] == [None, 0, 0, 0, 1, 1, 1, None]
        end = deltas[-1]
        assert isinstance(end, Finished)
        assert end.usage
        assert (end.usage["input_tokens"], end.usage["output_tokens"]) == (14, 4)

    async def test_a_long_history_is_told_in_parts_that_fit(self) -> None:
        history = [said(f"Remember: ship{n} sails.\n{long('x', 400)}", "user") for n in range(12)]
        given = context([*history, said("b", "assistant")], [said("::recall ship3")])
        provider = wrapped(Offline(), window=3_000)
        deltas = await heard(provider, given)
        [message] = [delta.item for delta in deltas if isinstance(delta, ItemFinished) and delta.slot == 1]
        assert message
        assert message["content"][0]["text"] == "Remember: ship3 sails."

    async def test_no_part_is_longer_than_the_window(self) -> None:
        provider = Answering(*(spoken(f"summary {n}") for n in range(40)))
        history = [said(long("a", 5_000)), *(said(long("x", 300), "assistant") for _ in range(20))]
        await heard(wrapped(provider, window=3_000), context(history, [said("c")]))
        *asked, main = provider.contexts
        assert len(asked) > 2
        for each in asked:
            size = len(each.joined()) + len(each.params["instructions"])
            assert size // 4 + each.params["max_output_tokens"] <= 3_000
        assert "summary 0" in texts(asked[1])[0]
        assert len(main.joined()) // 4 < 1_000

    async def test_what_must_stay_and_does_not_fit_is_refused(self) -> None:
        provider = Answering()
        with pytest.raises(InvalidRequest, match="even when it is compacted") as refusal:
            await heard(
                wrapped(provider, window=3_000), context([said("a", "assistant")], [said(long("c", 4_000))])
            )
        assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "input")
        assert not provider.contexts

    async def test_a_new_input_alone_is_not_compacted(self) -> None:
        provider = Answering(spoken("b"))
        await heard(wrapped(provider), context([], [said(long("a"))]))
        assert len(provider.contexts) == 1

    @pytest.mark.parametrize(
        "told",
        [
            [Started(), Finished("completed", USAGE)],
            [Started(), Finished("failed", error={"code": "server_error", "message": "Out of luck."})],
            [UpstreamError("The upstream is away.")],
            spoken("   "),
        ],
    )
    async def test_a_summary_that_fails_fails_the_request(self, told: Sequence[Delta | Exception]) -> None:
        """Before it has begun, so nothing is stored."""
        provider = Answering(told, spoken("never"))
        stream = wrapped(provider).stream(context([said(long("a")), said("b", "assistant")], [said("c")]))
        with pytest.raises(UpstreamError):
            await anext(stream)
        assert len(provider.contexts) == 1

    async def test_a_summary_is_cut_to_its_room(self) -> None:
        provider = Answering(spoken("ü" * 20_000), spoken("the answer"))
        await heard(wrapped(provider), context([said(long("a")), said("b", "assistant")], [said("c")]))
        assert len(texts(provider.contexts[1])[0].encode()) < 1_200


THEIRS: Json = {"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAA"}


class TestLeftToTheUpstream:
    async def test_it_gets_everything_from_its_own_item_on(self) -> None:
        provider = Answering(spoken("x"))
        history = [said("a"), said("b", "assistant"), THEIRS, said("c", "assistant")]
        one = wrapped(provider, THEIRS, window=10, compacts_itself=True, seals=NO_SEALS)
        one.refuse(ASKED, [ORDER])
        assert provider.refused == [(ASKED, [ORDER])]
        await heard(one, context(history, [said("d"), ORDER]))
        [asked] = provider.contexts
        items = orjson.loads(b"[" + asked.joined() + b"]")
        assert items == [said("a"), THEIRS, said("c", "assistant"), said("d"), ORDER]
        assert asked.params == ASKED

    async def test_ours_are_still_read(self) -> None:
        made = await heard(wrapped(Answering(spoken("sum")), ORDER), context([said("a")], [ORDER]))
        [item] = [delta.item for delta in made if isinstance(delta, ItemFinished)]
        assert item
        provider = Answering(spoken("x"))
        given = {**item, "id": "cmp_2"}
        await heard(wrapped(provider, given, compacts_itself=True), context([], [given, said("b")]))
        assert [text.split()[0] for text in texts(provider.contexts[0])] == ["a", "Summary", "b"]


def test_usages_are_added_up() -> None:
    assert total([None, None]) is None
    one = {"input_tokens": 1, "output_tokens": 2, "cost": 0.5, "is_byok": True, "service": "a"}
    two = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 2}, "cost": 0.25, "service": "b"}
    added = total([one, None, two])
    assert added
    assert (added["input_tokens"], added["total_tokens"], added["cost"]) == (4, 6, 0.75)
    assert (added["input_tokens_details"]["cached_tokens"], added["is_byok"], added["service"]) == (
        2,
        True,
        "b",
    )


@pytest.mark.parametrize("limit", [1, 1_000, 100_000, 10**7])
@pytest.mark.parametrize("window", [100, 2_000, 128_000, 10**7])
def test_a_summary_never_takes_more_than_a_quarter(limit: int, window: int) -> None:
    found = room(limit, window, PROMPT)
    assert 1 <= found.summary <= max(1, limit // 4)
    assert found.part is not None
    assert found.part + found.summary + found.output < window
    assert room(limit, None, PROMPT).part is None
