"""Many writers on one conversation while what serves them is killed: a short run of `tests.bench.writers`."""

import pytest

from tests.bench.writers import contend
from tests.workers.processes import LiveBroker


@pytest.mark.timeout(150)
async def test_no_turn_is_lost_doubled_or_mixed_with_another(database_url: str, broker: LiveBroker) -> None:
    report = await contend(database_url, broker.url, seconds=5, writers=8, seed=7)
    assert report.broken == []
    assert report.counts["turns"] > 5
