"""What became of a conversation that many wrote to: is it what its writers were told?"""

import asyncio
import collections
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg

from app import ids

Items = Sequence[dict[str, Any]]

SETTLING_SECONDS = 40.0
"""How long what is queued may take when nobody is killed any more."""
PARTS = 3
"""Items of one request that adds some."""


@dataclass
class Asked:
    """One thing that a writer asked for."""

    text: str
    kind: str
    fate: str = "unknown"
    """`kept`, `none`, or `unknown` where the answer was lost."""
    response_id: str = ""

    @property
    def texts(self) -> list[str]:
        """The first lines of the items that its writer sends."""
        if self.kind != "items":
            return [self.text]
        return [f"{self.text} part {part}" for part in range(PARTS)]


@dataclass
class Report:
    """Counts by what they count, and every promise that was broken."""

    counts: dict[str, Any] = field(default_factory=dict[str, Any])
    broken: list[str] = field(default_factory=list[str])


async def judge(
    url: str, conversation: str, session: aiohttp.ClientSession, asked: Sequence[Asked]
) -> Report:
    """Wait until all is over, then read everything.

    Args:
        url: of the database.
        conversation: its own URL.
        asked: everything that was asked for in it.
    """
    report, connection = Report(), await asyncpg.connect(url)
    try:
        await _settle(connection, report)
        await _check_rows(connection, conversation, report)
    finally:
        await connection.close()
    items = await _read(conversation, session)
    _check_items(items, asked, report)
    async with session.post(
        f"{conversation}/items", json={"items": [{"role": "user", "content": "end"}]}
    ) as answer:
        if answer.status != 200:
            report.broken.append(f"the conversation is stuck: {await answer.text()}")
    fates = collections.Counter(f"{each.kind}: {each.fate}" for each in asked)
    report.counts["asked for"] = dict(sorted(fates.items()))
    report.counts["items"] = len(items)
    return report


async def _settle(connection: Any, report: Report) -> None:
    end = time.monotonic() + SETTLING_SECONDS
    unfinished = "select count(*) from responses where status < 2"
    locked = "select count(*) from conversations where lease_until > clock_timestamp()"
    while await connection.fetchval(unfinished) or await connection.fetchval(locked):
        if time.monotonic() > end:
            report.broken.append("something never ended")
            return
        await asyncio.sleep(0.1)


async def _check_rows(connection: Any, conversation: str, report: Report) -> None:
    """Places are dense: none is missing, and none is taken twice."""
    key = ids.parse_conversation_id(conversation.rpartition("/")[2])
    next_seq = await connection.fetchval("select next_seq from conversations where id = $1", key)
    rows = await connection.fetch("select seq from responses where chain_id = $1 order by seq", key)
    if [row["seq"] for row in rows] != list(range(next_seq)):
        report.broken.append(f"{len(rows)} turns, next place {next_seq}")
    report.counts["turns"] = len(rows)


async def _read(conversation: str, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    items, after = list[dict[str, Any]](), dict[str, str]()
    while True:
        query = {"order": "asc", "limit": "100", **after}
        async with session.get(f"{conversation}/items", params=query) as answer:
            page = await answer.json()
        items += page["data"]
        if not page["has_more"]:
            return items
        after = {"after": page["last_id"]}


def _check_items(items: Items, asked: Sequence[Asked], report: Report) -> None:
    by_text = {each.text: each for each in asked}
    if len({item["id"] for item in items}) != len(items):
        report.broken.append("an item is there twice")
    found = collections.Counter[str]()
    for place, size in _turns(items, by_text, report):
        found[_line(items[place]).partition(" part ")[0]] += 1
        if size == 0:
            return
    for each in asked:
        allowed = {"kept": {1}, "none": {0}, "unknown": {0, 1}}[each.fate]
        if found[each.text] not in allowed:
            report.broken.append(f"{each.text}: {each.fate}, but there {found[each.text]} times")


def _turns(items: Items, by_text: dict[str, Asked], report: Report) -> Iterator[tuple[int, int]]:
    """Where each turn begins and how many items it has; 0 where order has ended."""
    place = 0
    while place < len(items):
        each = by_text.get(_line(items[place]).partition(" part ")[0])
        size = _size(items, place, each) if each else 0
        if size == 0:
            report.broken.append(
                f"out of order at {place}: {[_line(item) for item in items[place : place + 4]]}"
            )
        yield place, size
        place += size or len(items)


def _size(items: Items, place: int, asked: Asked) -> int:
    """The length of the turn that was asked for, if it stands here whole; 0 if not."""
    own = [_line(item) for item in items[place : place + len(asked.texts)]]
    if own != asked.texts:
        return 0
    if asked.kind == "items":
        return len(own)
    answer = items[place + 1] if place + 1 < len(items) else {}
    # The model says how many items it was given: all before it, and what was asked.
    told = f"I was given {place + 1} item"
    is_its_own = answer.get("role") == "assistant" and _line(answer).startswith(told)
    return 2 if is_its_own and asked.text in _line(answer) else 0


def _line(item: dict[str, Any]) -> str:
    """The first line of a message."""
    return item["content"][0]["text"].partition("\n")[0]
