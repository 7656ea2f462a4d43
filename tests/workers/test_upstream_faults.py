"""An upstream that hangs or drops, before and after it has said something (decision 14)."""

from collections.abc import Generator
from itertools import product
from typing import Any

import pytest

from tests.workers.processes import LiveBroker
from tests.workers.stage import Json, Site, kept, site, visiting

BOTH = (True, False)

GATEWAY_TIMEOUT, BAD_GATEWAY = (504, "server_error", None), (502, "server_error", None)
MIDWAY = (200, "response.failed", "failed")
GIVEN_UP: dict[tuple[str, str, bool], Any] = {
    ("asked", "hasty", False): GATEWAY_TIMEOUT,
    ("asked", "hasty", True): GATEWAY_TIMEOUT,
    ("shown", "hasty", True): MIDWAY,
    ("asked", "wire", False): GATEWAY_TIMEOUT,
    ("asked", "wire", True): GATEWAY_TIMEOUT,
    ("shown", "wire", True): MIDWAY,
    ("dropped", "wire", False): BAD_GATEWAY,
    ("dropped", "wire", True): BAD_GATEWAY,
    ("broken", "wire", True): MIDWAY,
}
"""By where it hangs or drops, by model, and streamed or not: what a client of the foreground is told, and what is
stored unless `store` is false. In the background all have failed."""


@pytest.fixture
def impatient(database_url: str, broker: LiveBroker) -> Generator[Site]:
    with site(database_url, broker, max_run_seconds="2") as it, it.crew:
        yield it


async def test_an_upstream_that_hangs_or_drops_is_given_up_in_so_many_words(impatient: Site) -> None:
    """`hasty` loses patience with its silence, the engine with how long it takes in all."""
    async with visiting(impatient) as visit:
        asked = {
            (halt, model, stream, store, background): visit.ask(
                f"{halt} {model} {stream} {store} {background}",
                stream,
                store,
                model=model,
                background=background,
            )
            for ((halt, model, stream), store, background) in product(GIVEN_UP, BOTH, BOTH)
        }
        behind = {cell: each for cell, each in asked.items() if cell[-1]}
        await visit.all_ended(list(behind.values()))
        found = {cell: await visit.told(asked[cell]) for cell in asked.keys() - behind.keys()}
        outcomes = {cell: await visit.outcome(each) for cell, each in behind.items()}
        rows = await visit.foreground_rows()
        partial = [
            await visit.fetch(each.id)
            for cell, each in asked.items()
            if cell[0] in {"shown", "broken"} and any(cell[3:])
        ]
    assert found == {cell: kept(GIVEN_UP[cell[:3]], store=cell[3]) for cell in found}
    assert rows == sum(stored is not None for _, _, stored in found.values())
    assert outcomes == dict.fromkeys(behind, ("failed", ["failed"], 1))
    assert [text_of(each) for each in partial] == [("incomplete", "Hello")] * 9


def text_of(response: Json) -> tuple[str, str]:
    """The status and the text of its one item."""
    [item] = response["output"]
    return item["status"], item["content"][0]["text"]
