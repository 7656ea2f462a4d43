"""Requests and tokens per minute of a tenant, over all processes (docs/decisions/0022).

A create uses one request and the estimate of what it brings: its new input, instructions, tools and
schema. Its history is not read yet, because a refusal must leave nothing locked. When the response ends
with a reported usage, that stands instead: the history and the output are in it.
"""

import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self

import structlog

from app.domain import tokens
from app.domain.response import Draft, complete_usage
from app.domain.tenancy import Caller
from app.errors import RateLimited, Unavailable
from app.generation.composer import Composer
from app.generation.engine import uninterrupted
from app.store import rate_limits as store
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Kind = Literal["requests", "tokens"]

_SHORT: Mapping[Kind, str] = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}
_WINDOW_SECONDS = store.WINDOW.total_seconds()
_WINDOW_US = store.WINDOW // timedelta(microseconds=1)
# What one response can cost its tenant, whatever count an upstream reports: up to 2**53 is taken from it.
_LONGEST_US = timedelta(days=1) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use in a minute; None is any number."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant stands against one of its limits."""

    kind: Kind
    limit: int
    remaining: int
    reset_seconds: float
    """Until nothing of it is in use."""


class OverLimit(RateLimited):
    """A limit per minute is used up. Its `type` is the limit's kind, as at OpenAI."""

    kind: Kind | None = None
    standings: tuple[Standing, ...] = ()

    @classmethod
    def of(cls, message: str, kind: Kind, standings: tuple[Standing, ...], seconds: float | None) -> Self:
        """Without `seconds` no time will help."""
        error = cls(message, code="rate_limit_exceeded", retry_after_seconds=seconds)
        error.kind, error.standings = kind, standings
        return error

    def envelope(self) -> dict[str, dict[str, str | None]]:
        body = super().envelope()
        body["error"]["type"] = self.kind or self.type
        return body


async def use(db: Database, caller: Caller, limits: Limits, draft: Draft) -> tuple[Standing, ...]:
    """Use up what this create needs, all of it or nothing; empty, and nothing is asked, without limits.

    Raises:
        OverLimit: there is not enough left of one of them.
    """
    if limits == UNLIMITED:
        return ()
    wanted: dict[Kind, int] = {"requests": 1, "tokens": _estimate(draft)}
    amounts = {kind: _time_of(wanted[kind], limit) for kind, limit in _set(limits)}
    for kind, limit in _set(limits):
        if wanted[kind] > limit:
            raise await _too_large(db, caller, limits, kind, wanted[kind])
    requests, tokens_ = (amounts.get(kind, timedelta(0)) for kind in _SHORT)
    async with db.autocommit(caller) as tx:
        used = await store.use(tx, requests=requests, tokens=tokens_)
        if used:
            return _standings(limits, used)
        used = await store.look(tx)
    raise _exceeded(limits, used, wanted)


async def amend(db: Database, caller: Caller, limits: Limits, before: Draft, after: Draft) -> None:
    """Add what a draft has gained since it was counted: items that it only referred to."""
    if limits.tokens_per_minute is not None and after is not before:
        await _correct(db, caller, limits.tokens_per_minute, _estimate(after) - _estimate(before))


def settled(
    run: Coroutine[Any, Any, Composer], db: Database, caller: Caller, limits: Limits, draft: Draft
) -> Coroutine[Any, Any, Composer]:
    """The same run, which puts the tokens that it says it used in the place of the estimate."""
    if limits.tokens_per_minute is None:
        return run
    return _settled(run, db, caller, limits.tokens_per_minute, draft)


async def _settled(
    run: Coroutine[Any, Any, Composer], db: Database, caller: Caller, limit: int, draft: Draft
) -> Composer:
    composer = await run
    # Where an upstream reports nothing the estimate stays.
    if composer.usage and (total := complete_usage(composer.usage)["total_tokens"]):
        # Nothing is left to be stopped: a cancellation that comes now comes too late.
        await uninterrupted(_correct(db, caller, limit, total - _estimate(draft)))
    return composer


async def _correct(db: Database, caller: Caller, limit: int, amount: int) -> None:
    """A store that is away forgets it, as it forgets the whole table in a crash."""
    try:
        async with db.autocommit(caller) as tx:
            await store.correct(tx, tokens=_time_of(amount, limit))
    except Unavailable:
        log.warning("store.unavailable")


def _estimate(draft: Draft) -> int:
    return tokens.estimate(draft.input.blob) + tokens.estimate_request(draft.params)


def _set(limits: Limits) -> list[tuple[Kind, int]]:
    both: tuple[tuple[Kind, int | None], ...] = (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
    )
    return [(kind, limit) for kind, limit in both if limit is not None]


def _time_of(amount: int, limit: int) -> timedelta:
    """In how long this flows in again; rounded down, or a whole minute's worth would not fit into one."""
    microseconds = _WINDOW_US * amount // limit
    return timedelta(microseconds=max(-_LONGEST_US, min(microseconds, _LONGEST_US)))


def _standings(limits: Limits, used: store.Used) -> tuple[Standing, ...]:
    return tuple(_standing(kind, limit, used) for kind, limit in _set(limits))


def _standing(kind: Kind, limit: int, used: store.Used) -> Standing:
    seconds = max(0.0, _seconds(used, kind))
    # The instants are kept in microseconds: less than a hundredth of a token is their rounding.
    remaining = math.floor((_WINDOW_SECONDS - seconds) * limit / _WINDOW_SECONDS + 0.01)
    return Standing(kind, limit, max(0, remaining), seconds)


def _seconds(used: store.Used, kind: Kind) -> float:
    return used.requests_seconds if kind == "requests" else used.tokens_seconds


def _exceeded(limits: Limits, used: store.Used, wanted: Mapping[Kind, int]) -> OverLimit:
    """What refused, or would refuse for longer. What has flowed in since may have been enough."""
    waits: dict[Kind, float] = {
        kind: max(0.0, _seconds(used, kind)) + _time_of(wanted[kind], limit).total_seconds() - _WINDOW_SECONDS
        for kind, limit in _set(limits)
    }
    kind: Kind = max(waits, key=lambda each: waits[each])
    seconds = max(0.001, waits[kind])
    standings = _standings(limits, used)
    [of_kind] = (each for each in standings if each.kind == kind)
    message = (
        f"Rate limit reached on {_SHORT[kind]}: Limit {of_kind.limit}, "
        f"Used {of_kind.limit - of_kind.remaining}, Requested {wanted[kind]}. "
        f"Please try again in {go_duration(seconds)}."
    )
    return OverLimit.of(message, kind, standings, seconds)


async def _too_large(db: Database, caller: Caller, limits: Limits, kind: Kind, requested: int) -> OverLimit:
    async with db.read(caller) as tx:
        standings = _standings(limits, await store.look(tx))
    [of_kind] = (each for each in standings if each.kind == kind)
    message = (
        f"Request too large on {_SHORT[kind]}: Limit {of_kind.limit}, Requested {requested}. "
        "The input must be reduced in order to run successfully."
    )
    return OverLimit.of(message, kind, standings, None)


def go_duration(seconds: float) -> str:
    """A duration as Go writes it, in whole milliseconds: `20ms`, `1.5s`, `6m0s`."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms // 1000}.{ms % 1000:03}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
