"""Make a long context short before a model sees it, whoever the model's upstream is.

A provider is wrapped, so that JSON, streams, workers and sockets compact alike. What neither asks for
compaction nor has a compaction item in its context is passed to the upstream's own adapter as it is.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.domain import compaction, compaction_prompt, prompts, tokens, truncation
from app.domain.compaction import COMPACTION, MARK, OPAQUE, TRIGGER, Item, Memory, Plan, Unfolded
from app.domain.compaction_seals import MemorySeals, is_ours
from app.domain.context import Context
from app.domain.items import join, split
from app.domain.response import Draft
from app.domain.seals import CannotOpen
from app.errors import InvalidRequest
from app.generation import summary
from app.generation.summary import Room, Summary
from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from app.providers.registry import Route

DEFAULT_THRESHOLD_TOKENS = 100_000
"""Where a request wants compaction but does not say from which length on, and the model's window is not
known. With a window it is four fifths of that.
"""

_CONCERNED = frozenset({COMPACTION, TRIGGER, "item_reference"})
"""Items that are something to compaction; what is referred to is known only later."""

_PLACEHOLDER: Mapping[str, Any] = {"type": "message", "role": "assistant", "content": []}
_SLOTTED = (
    ItemStarted, PartStarted, TextDelta, AnnotationAdded, PartFinished, InputDelta, Progress, ItemFinished,
)  # fmt: skip


class Compaction:
    """What compacting needs of a process: its keys."""

    def __init__(self, seals: MemorySeals) -> None:
        self.seals = seals

    def prepared(self, draft: Draft, route: Route, tenant: str) -> tuple[Draft, Route]:
        """The same draft, knowing what its compaction items stand for, and a route that compacts.

        Raises:
            InvalidRequest: one of them was changed, or is not from our servers.
        """
        is_named = any(item["type"] in _CONCERNED for item in draft.input.items)
        if is_named:
            draft = self.opened(draft, tenant, allows_theirs=route.compacts_itself)
        return draft, replace(route, provider=Compacting(self, route, tenant, is_named=is_named))

    def memory_of(self, item: Item, tenant: str, *, allows_theirs: bool, place: str = "input") -> Memory:
        """What a compaction item stands for.

        Args:
            allows_theirs: whether one that an upstream has made goes back to it, unopened.
            place: where the request has it, for the error.

        Raises:
            InvalidRequest: it was changed, or is not from our servers.
        """
        content: str = item.get("encrypted_content") or ""
        if allows_theirs and not is_ours(content):
            return OPAQUE
        try:
            return self.seals.open(content, tenant)
        except CannotOpen:
            raise InvalidRequest(
                f"The encrypted content of the compaction item '{item['id']}' could not be verified. It was "
                "changed, or it was not made for this tenant by a server with this server's key.",
                code="invalid_encrypted_content",
                param=place,
            ) from None

    def unfold(self, blobs: Sequence[bytes], tenant: str, *, allows_theirs: bool) -> Unfolded:
        """A context from its newest compaction item on; the new input is its last blob.

        Raises:
            InvalidRequest: that item cannot be opened.
        """
        return compaction.unfold(
            blobs, lambda item: self.memory_of(item, tenant, allows_theirs=allows_theirs)
        )

    def opener(self, tenant: str, *, allows_theirs: bool) -> Callable[[Draft], Draft]:
        """`opened` for whatever an input turns out to be."""
        return partial(self.opened, tenant=tenant, allows_theirs=allows_theirs)

    def opened(self, draft: Draft, tenant: str, *, allows_theirs: bool) -> Draft:
        """The same draft, knowing what its compaction items stand for.

        Raises:
            InvalidRequest: one of them cannot be opened.
        """
        memories = [
            self.memory_of(
                item, tenant, allows_theirs=allows_theirs, place=f"input[{place}].encrypted_content"
            )
            for place, item in enumerate(draft.input.items)
            if item["type"] == COMPACTION
        ]
        return replace(draft, memory=memories[-1]) if memories else draft


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a context may be, in estimated tokens."""

    threshold: int | None
    """From where on it is to be compacted; None if that is not wanted."""
    window: int | None
    """For items, beside all else that the model reads and says; None if nobody has said."""

    @property
    def size(self) -> int:
        """What a compaction has to stay well below."""
        known = [limit for limit in (self.threshold, self.window) if limit is not None]
        return max(0, min(known, default=DEFAULT_THRESHOLD_TOKENS))

    def is_crossed(self, items: int, beside: int) -> bool:
        """Whether a context of this many tokens in items, and as many beside them, is to be compacted."""
        if self.threshold is None:
            return False
        return items + beside > self.threshold or (self.window is not None and items > self.window)


class Compacting:
    """A provider that compacts for one tenant what it is given, and gives the rest to another provider."""

    def __init__(self, compaction: Compaction, route: Route, tenant: str, *, is_named: bool) -> None:
        """`is_named` says that the new input may have something of it."""
        self._compaction = compaction
        self._is_named = is_named
        self._inner = route.provider
        self._route = route
        self._tenant = tenant

    @property
    def name(self) -> str:
        return self._inner.name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        if self._route.compacts_itself:
            self._inner.refuse(params, items)
            return
        if compaction.is_asked_for(params, items):
            self._refuse_without_key(params, items)
            params = _without_order(params)
        if any(item["type"] in {COMPACTION, TRIGGER} for item in items):
            # In their places stands what every upstream takes, so that places in errors stay what they are.
            items = [_PLACEHOLDER if item["type"] in {COMPACTION, TRIGGER} else item for item in items]
        self._inner.refuse(params, items)

    def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        """Compact the context where that is wanted, and give the upstream what a compaction stands for."""
        if not self._concerns(context):
            return self._inner.stream(context)
        if self._route.compacts_itself:
            return self._inner.stream(self._left_to_upstream(context))
        return self._compacted(context)

    def _concerns(self, context: Context) -> bool:
        """Where the history was compacted before, it begins with the turn in which that was: even if that is
        in no store, and came into the new input.
        """
        first, *_ = _parted(context)[1] or (b"",)
        return self._is_named or bool(context.params.get("context_management")) or MARK in first

    async def models(self) -> Sequence[str]:
        return await self._inner.models()

    async def close(self) -> None:
        await self._inner.close()

    def _unfolded(self, context: Context) -> Unfolded:
        theirs, (_, items) = self._route.compacts_itself, _parted(context)
        return self._compaction.unfold(items, self._tenant, allows_theirs=theirs)

    def _left_to_upstream(self, context: Context) -> Context:
        """The context from its newest compaction item on: the upstream compacts, and reads its own items."""
        given, (said, items) = self._unfolded(context), _parted(context)
        order = split(items[-1])[-1:] if given.is_triggered else []
        return replace(context, items=(*said, join([*given.items, *order])))

    async def _compacted(self, context: Context) -> AsyncGenerator[Delta, None]:
        given, (said, _) = self._unfolded(context), _parted(context)
        compaction.refuse_unknown_outputs(given)
        limits = self._limits(context.params)
        context = replace(context, params=_without_order(context.params))
        plan = self._plan(given, limits, context.params)
        if plan is None:
            items = _fitting(given, limits, context.params)
            async for delta in self._asked(replace(context, items=(*said, *items))):
                yield delta
            return
        room = self._room(context.params, limits)
        made = await summary.summed_up(self._inner, context, plan, room)
        memory = plan.memory(made.text)
        item = {"type": COMPACTION, "encrypted_content": self._compaction.seals.seal(memory, self._tenant)}
        if given.is_triggered:
            for delta in _alone(item, made):
                yield delta
            return
        async for delta in self._asked(replace(context, items=(*said, join(memory.items)))):
            for each in _beside(delta, item, made):
                yield each

    async def _asked(self, context: Context) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._inner.stream(context)) as deltas:
            async for delta in deltas:
                yield delta

    def _limits(self, params: Mapping[str, Any]) -> Limits:
        window = self._route.context_window_tokens
        default = DEFAULT_THRESHOLD_TOKENS if window is None else window * 4 // 5
        wanted = compaction.threshold(params, default)
        return Limits(wanted, None if window is None else truncation.budget(window, params))

    def _plan(self, given: Unfolded, limits: Limits, params: Mapping[str, Any]) -> Plan | None:
        """What is to be kept and folded; None where the context is short enough, or cannot be any shorter.

        Raises:
            InvalidRequest: what has to be kept word by word is longer than the window.
        """
        if given.is_triggered:
            wanted = (None,)
        elif limits.is_crossed(compaction.estimate(given.items), tokens.estimate_request(params)):
            wanted = (limits.size // 4, 0)
        else:
            return None
        plans = [compaction.plan(given, keep_tokens=keep) for keep in wanted]
        if not plans[0].folded and not given.is_triggered:
            return None
        taken = self._room(params, limits).summary
        for plan in plans:
            if (
                limits.window is None
                or compaction.estimate([*plan.before, *plan.after]) + taken <= limits.window
            ):
                return plan
        raise compaction.not_keepable()

    def _room(self, params: Mapping[str, Any], limits: Limits) -> Room:
        told = compaction_prompt.instructions(params)
        room = summary.room(limits.size, self._route.context_window_tokens, told)
        if room.part is not None and room.part * tokens.BYTES_PER_TOKEN < compaction_prompt.MIN_ROOM_BYTES:
            raise compaction.not_keepable()
        return room

    def _refuse_without_key(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        if self._compaction.seals.can_seal:
            return
        name = "context_management" if params.get("context_management") else f"input[{len(items) - 1}].type"
        raise InvalidRequest(
            f"Unsupported parameter: '{name}' asks to compact, which works only where the setting 'seal_key' "
            "is set.",
            code="unsupported_parameter",
            param=name,
        )


def _parted(context: Context) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What a prompt says, and the rest. It is said anew in every turn, as instructions are, so it is neither
    folded nor kept, and stands before whatever stands for the history.
    """
    count = 1 if prompts.said(context.params) else 0
    return context.items[:count], context.items[count:]


def _without_order(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters as an upstream gets them that is not to compact anything itself."""
    return {name: value for name, value in params.items() if name != "context_management"}


def _fitting(given: Unfolded, limits: Limits, params: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The context as `history.fit` leaves it, now that its length is known.

    Raises:
        InvalidRequest: it is too long, and `truncation` does not help.
    """
    known, new = join([*given.memory.items, *given.history]), join(given.new)
    if limits.window is None or tokens.estimate(known) + tokens.estimate(new) <= limits.window:
        return known, new
    if params.get("truncation") != "auto":
        raise truncation.too_long()
    return truncation.fit([known], new, limits.window).head, new


def _alone(item: dict[str, Any], made: Summary) -> Iterator[Delta]:
    """The whole answer to an order to compact."""
    yield Started(made.model)
    yield from _said(item)
    yield Finished("completed", made.usage)


def _beside(delta: Delta, item: dict[str, Any], made: Summary) -> Iterator[Delta]:
    """The compaction item first, then all else that the model says; what both took is added up."""
    if isinstance(delta, _SLOTTED):
        yield replace(delta, slot=delta.slot + 1)
    elif isinstance(delta, Finished):
        yield replace(delta, usage=summary.total((made.usage, delta.usage)))
    else:
        yield delta
        yield from _said(item)


def _said(item: dict[str, Any]) -> Iterator[Delta]:
    yield ItemStarted(0, {"type": COMPACTION, "encrypted_content": ""})
    yield Progress(0, "response.compaction.compacting")
    yield ItemFinished(0, item)
