"""Where the time went: bars lie within the whole, in their order, whatever the clocks said."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ui.waterfall import draw


def attempt(number: int, began: float, ended: float | None, reason: str | None = None) -> dict[str, Any]:
    return {"attempt": number, "started_at": began, "ended_at": ended, "reason": reason}


def test_a_foreground_response_is_one_bar() -> None:
    drawn = draw(100.0, 102.5, [], now=900)
    assert [(bar.kind, bar.label, bar.begin, bar.width, bar.seconds) for bar in drawn.bars] == [
        ("done", "Generation", 0, 100, 2.5)
    ]
    assert not drawn.is_running


def test_waiting_and_attempts_follow_each_other() -> None:
    tries = [attempt(1, 101, 103, "lost"), attempt(2, 104, 110, "completed")]
    drawn = draw(100, 110, tries, now=900)
    assert [(bar.label, bar.kind, bar.begin, bar.width) for bar in drawn.bars] == [
        ("Waiting", "waiting", 0, 10),
        ("Attempt 1", "lost", 10, 20),
        ("Waiting", "waiting", 30, 10),
        ("Attempt 2", "done", 40, 60),
    ]


def test_what_runs_ends_now() -> None:
    drawn = draw(100, None, [attempt(1, 102, None)], now=104)
    assert [(bar.label, bar.kind, bar.seconds) for bar in drawn.bars] == [
        ("Waiting", "waiting", 2),
        ("Attempt 1", "running", 2),
    ]
    assert drawn.is_running


def test_what_was_lost_waits_again() -> None:
    drawn = draw(100, None, [attempt(1, 101, 102, "lost")], now=104)
    assert [bar.kind for bar in drawn.bars] == ["waiting", "lost", "waiting"]


def test_what_nobody_has_taken_waits() -> None:
    assert [bar.kind for bar in draw(100, None, [], now=104).bars] == ["waiting"]


TIMES = st.floats(min_value=0, max_value=1e10)


@settings(deadline=None)
@given(TIMES, st.none() | TIMES, st.lists(st.tuples(TIMES, st.none() | TIMES), max_size=4), TIMES)
def test_no_bar_leaves_the_picture(
    created: float, finished: float | None, tries: list[tuple[float, float | None]], now: float
) -> None:
    attempts = [attempt(number, began, ended) for number, (began, ended) in enumerate(tries, 1)]
    for bar in draw(created, finished, attempts, now=now).bars:
        assert 0 <= bar.begin <= 100
        assert bar.width > 0
        assert bar.begin + bar.width <= 100.01
        assert bar.seconds >= 0
