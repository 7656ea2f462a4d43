"""Streams at 16 clients: as fast as the upstream can say them, and at the pace of a quick model."""

from collections.abc import Generator
from contextlib import contextmanager
from operator import sub

from tests.bench.answers import Script
from tests.bench.exchanges import create, is_streamed
from tests.bench.http_load import Client
from tests.bench.measuring import HOLDFAST, Against, Series, Setup
from tests.bench.spans import FIRST_BYTE, Bench, Span

CLIENTS = 16
PACE_MS = 5
CHARACTERS_OF_A_DELTA = 9
UPSTREAM = "upstream alone"
PACED, PACED_UPSTREAM = f"Holdfast, {PACE_MS} ms apart", f"upstream alone, {PACE_MS} ms apart"
OVER = "first byte over the upstream's, ms"


@contextmanager
def streaming(bench: Bench, *, deltas: int, is_paced: bool) -> Generator[Setup]:
    at_once = _script(deltas, 0)
    series = [
        Series(HOLDFAST, _streamed(bench, at_once, is_upstream=False)),
        Series(UPSTREAM, _streamed(bench, at_once, is_upstream=True)),
    ]
    against = [Against(OVER, FIRST_BYTE, HOLDFAST, UPSTREAM, sub)]
    if is_paced:
        slowly = _script(deltas, PACE_MS)
        series += [
            Series(PACED, _streamed(bench, slowly, is_upstream=False)),
            Series(PACED_UPSTREAM, _streamed(bench, slowly, is_upstream=True)),
        ]
        against.append(Against(OVER, FIRST_BYTE, PACED, PACED_UPSTREAM, sub))
    yield Setup(series, against)


def _script(deltas: int, gap_ms: int) -> Script:
    return Script(deltas, deltas * CHARACTERS_OF_A_DELTA, gap_ms=gap_ms)


def _streamed(bench: Bench, script: Script, *, is_upstream: bool) -> Span:
    request = create(script, stream=True)

    async def each(client: Client) -> None:
        await client.follow(*request)
        while not client.is_over:
            await client.follow(*request)

    ask = bench.upstream if is_upstream else bench.holdfast
    return ask(each, clients=CLIENTS, check=is_streamed(script), is_streamed=True)
