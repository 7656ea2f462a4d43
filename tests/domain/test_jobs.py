"""What becomes of a response whose worker has vanished, and where a service tier stands in the queue."""

from itertools import product

import pytest

from app.domain.jobs import PRIORITIES, SHOWN_BEFORE_OUTPUT, Expired, Mode, Rerun, Verdict, decide
from app.domain.response import TRANSITIONS, Status

MAX_ATTEMPTS = 3

UNSHOWN, SHOWN = (0, 2, SHOWN_BEFORE_OUTPUT), (SHOWN_BEFORE_OUTPUT + 1, 500)
EARLY, LAST = (1, MAX_ATTEMPTS - 1), (MAX_ATTEMPTS, MAX_ATTEMPTS + 1)

TABLE: list[tuple[Rerun, tuple[int, ...], tuple[int, ...], Verdict]] = [
    # rerun          attempts  events    verdict
    ("if_no_output", EARLY, UNSHOWN, Verdict.REQUEUE),
    ("if_no_output", EARLY, SHOWN, Verdict.FAIL),
    ("if_no_output", LAST, UNSHOWN, Verdict.FAIL),
    ("if_no_output", LAST, SHOWN, Verdict.FAIL),
    ("always", EARLY, UNSHOWN, Verdict.REQUEUE),
    ("always", EARLY, SHOWN, Verdict.REQUEUE),
    ("always", LAST, UNSHOWN, Verdict.FAIL),
    ("always", LAST, SHOWN, Verdict.FAIL),
    ("never", EARLY, UNSHOWN, Verdict.FAIL),
    ("never", EARLY, SHOWN, Verdict.FAIL),
    ("never", LAST, UNSHOWN, Verdict.FAIL),
    ("never", LAST, SHOWN, Verdict.FAIL),
]
"""Of a response in progress whose lease is over."""

CASES = [
    (rerun, attempt, event_count, verdict)
    for rerun, attempts, counts, verdict in TABLE
    for attempt, event_count in product(attempts, counts)
]


@pytest.mark.parametrize(("rerun", "attempt", "event_count", "verdict"), CASES)
def test_what_vanished_is_done_again_unless_it_was_seen_or_tried_too_often(
    rerun: Rerun, attempt: int, event_count: int, verdict: Verdict
) -> None:
    found = Expired(Status.IN_PROGRESS, is_lease_over=True, attempt=attempt, event_count=event_count)
    assert decide(found, max_attempts=MAX_ATTEMPTS, rerun=rerun) is verdict


@pytest.mark.parametrize(("status", "is_lease_over"), [*product(Status, [True, False])])
@pytest.mark.parametrize(("rerun", "attempt", "event_count"), [case[:3] for case in CASES])
def test_nothing_else_is_touched(
    status: Status, rerun: Rerun, attempt: int, event_count: int, *, is_lease_over: bool
) -> None:
    found = Expired(status, is_lease_over, attempt, event_count)
    has_vanished = status is Status.IN_PROGRESS and is_lease_over
    verdict = decide(found, max_attempts=MAX_ATTEMPTS, rerun=rerun)
    assert (verdict is Verdict.LEAVE) is not has_vanished


def test_every_verdict_is_a_transition_that_is_declared() -> None:
    assert {Status.QUEUED, Status.FAILED} <= TRANSITIONS[Status.IN_PROGRESS]


@pytest.mark.parametrize(
    ("tier", "priority"),
    [("priority", -1), ("fast", -1), ("auto", 0), ("default", 0), (None, 0), ("scale", 0), ("flex", 1)],
)
def test_a_service_tier_is_a_place_in_the_queue(tier: str | None, priority: int) -> None:
    assert PRIORITIES.get(tier, 0) == priority


def test_modes_are_kept_as_they_are_stored() -> None:
    """Numbers that stand in rows: to change one would change what those mean."""
    stored = {"BACKGROUND": 1, "STREAMED": 2, "EPHEMERAL": 4, "ITEMS": 8}
    assert {mode.name: int(mode) for mode in Mode} == stored
    assert Mode.FOREGROUND == 0
