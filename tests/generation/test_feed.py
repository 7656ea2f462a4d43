"""The hand-over of events from one writer to one reader."""

import asyncio

import pytest

from app.domain.events import Event
from app.generation import feed as feeds
from app.generation.feed import Feed


def an_event(number: int, size: int = 10) -> Event:
    return Event("response.output_text.delta", number, b"x" * size)


async def test_events_come_in_order_as_many_as_there_are() -> None:
    feed = Feed()
    await feed.publish([an_event(0), an_event(1)])
    await feed.publish([an_event(2)])
    assert [event.sequence_number for event in await feed.take()] == [0, 1, 2]


async def test_a_reader_waits_for_news() -> None:
    feed = Feed()
    reader = asyncio.ensure_future(feed.take())
    await asyncio.sleep(0)
    assert not reader.done()
    feed.put([an_event(0)])
    assert len(await reader) == 1


async def test_an_end_is_an_empty_hand_and_stays_one() -> None:
    feed = Feed()
    feed.put([an_event(0)])
    feed.close()
    assert [len(await feed.take()) for _ in range(3)] == [1, 0, 0]


async def test_nothing_is_no_news() -> None:
    feed = Feed()
    await feed.publish([])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await feed.take()


async def test_a_reader_who_gives_up_loses_nothing() -> None:
    feed = Feed()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await feed.take()
    feed.put([an_event(0)])
    assert len(await feed.take()) == 1


async def test_a_writer_waits_for_a_reader_who_is_too_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_WAITING_BYTES", 15)
    feed = Feed()
    await feed.publish([an_event(0)])
    writer = asyncio.ensure_future(feed.publish([an_event(1)]))
    await asyncio.sleep(0)
    assert not writer.done()
    assert len(await feed.take()) == 2
    await writer
    await feed.publish([an_event(2)])


async def test_the_last_words_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_WAITING_BYTES", 15)
    feed = Feed()
    feed.put([an_event(0, 100)])
    feed.put([an_event(1, 100)])
    assert len(await feed.take()) == 2


async def test_a_feed_that_nobody_reads_any_more_holds_nothing_up() -> None:
    feed = Feed(max_waiting_bytes=10)
    writer = asyncio.ensure_future(feed.publish([an_event(0, size=11)]))
    await asyncio.sleep(0)
    assert not writer.done()
    feed.abandon()
    await writer
    await feed.publish([an_event(1, size=100)])
    feed.close()
    assert await feed.take() == []
