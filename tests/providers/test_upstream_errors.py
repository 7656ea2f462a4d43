"""What an upstream's failure means to the client, and what is kept from it."""

import logging
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from app.errors import UpstreamError
from tests.providers.outcome import outcome_of
from tests.providers.subjects import ADAPTERS, BY_NAME, SECRET, a_context, playing
from tests.providers.wire import Answer, json_answer

RESPONSES = BY_NAME["openai_responses"]


def openai_error(message: str, **fields: Any) -> dict[str, Any]:
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}
    }


async def failure_of(answer: Answer, *, is_streamed: bool = True, **settings: Any) -> UpstreamError:
    async with playing(RESPONSES, answer, **{"max_retries": 0, **settings}) as (provider, _):
        with pytest.raises(UpstreamError) as raised:
            await outcome_of(provider.stream(a_context(is_streamed=is_streamed)))
    return raised.value


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_the_clients_mistake_is_told_in_the_upstreams_words(status: int) -> None:
    said = openai_error("Invalid image.", code="invalid_image_url", param="input[0].content[1]")
    error = await failure_of(json_answer(said, status))
    assert error.status == 400
    assert error.envelope()["error"] == {
        "message": "Invalid image.",
        "type": "invalid_request_error",
        "param": "input[0].content[1]",
        "code": "invalid_image_url",
    }


@pytest.mark.parametrize(
    "said",
    [
        {"object": "error", "message": "No such model.", "type": "NotFoundError", "param": None, "code": 404},
        {"error": "No such model."},
        {"error": {"message": "No such model.", "code": 404}},
    ],
)
async def test_other_shapes_of_errors_are_read(said: dict[str, Any]) -> None:
    error = await failure_of(json_answer(said, 404))
    assert (error.status, error.message, error.code) == (400, "No such model.", None)


@pytest.mark.parametrize(
    "said",
    [
        openai_error("too long", code="context_length_exceeded", param="messages"),
        openai_error("the request exceeds the available context size", type="exceed_context_size_error"),
        openai_error("This model's maximum context length is 4096 tokens.", code=400),
    ],
)
async def test_a_context_that_is_too_long_has_one_name(said: dict[str, Any]) -> None:
    error = await failure_of(json_answer(said, 400))
    assert error.envelope()["error"] == {
        "message": "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "type": "invalid_request_error",
        "param": "input",
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (json_answer(openai_error("bad key"), 401), 502, "server_error"),
        (json_answer(openai_error("forbidden"), 403), 502, "server_error"),
        (json_answer(openai_error("slow"), 429), 429, "rate_limit_exceeded"),
        (json_answer(openai_error("pay", code="insufficient_quota"), 429), 429, "insufficient_quota"),
        (json_answer(openai_error("oops"), 500), 502, "server_error"),
        (json_answer(openai_error("busy"), 503), 503, "server_is_overloaded"),
        (json_answer(openai_error("busy"), 529), 503, "server_is_overloaded"),
        (json_answer(openai_error("late"), 504), 504, "server_error"),
        (Answer(b"<html>", status=400, content_type="text/html"), 502, "server_error"),
        (Answer(b"", status=302, headers={"location": "/elsewhere"}), 502, "server_error"),
        (Answer(b"data: {broken\n\n"), 502, "server_error"),
        (Answer(b"data: [1]\n\n"), 502, "server_error"),
        (json_answer({"id": "resp_1"}), 502, "server_error"),
        (json_answer({"error": {"message": "upstream is down", "code": 503}}), 503, "server_is_overloaded"),
    ],
)
async def test_every_other_failure_is_told_in_our_words(answer: Answer, status: int, code: str) -> None:
    error = await failure_of(answer)
    assert (error.status, error.code) == (status, code)
    assert error.report is not None
    assert error.report.upstream == "tested"
    for word in ("bad key", "forbidden", "slow", "pay", "oops", "busy", "html", "broken", "down"):
        assert word not in error.message


async def test_a_redirect_is_not_followed() -> None:
    async with playing(RESPONSES, Answer(status=302, headers={"location": "/v1/elsewhere"})) as (
        provider,
        upstream,
    ):
        with pytest.raises(UpstreamError):
            await outcome_of(provider.stream(a_context()))
    assert len(upstream.requests) == 1


async def test_an_error_whose_words_are_cut_off_is_still_an_error() -> None:
    error = await failure_of(Answer(b'{"error":{"mess', status=401, ending="drop", framing="length"))
    assert error.message == "The upstream refused this server's credentials."


async def test_a_router_may_report_its_failure_with_status_200() -> None:
    answer = json_answer({"error": {"message": "provider returned an error", "code": 502}})
    error = await failure_of(answer, is_streamed=False)
    assert (error.status, error.report.detail if error.report else "") == (
        502,
        '{"error":{"message":"provider returned an error","code":502}}',
    )


async def test_the_key_is_nowhere_and_long_words_are_cut() -> None:
    said = openai_error(f"You sent {SECRET}. " + "x" * 5_000)
    error = await failure_of(json_answer(said, 400))
    assert error.report is not None
    assert "You sent [redacted]." in error.message
    assert SECRET not in error.message + error.report.detail
    assert len(error.report.detail) == 2_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "31"}, 31.0),
        ({"retry_after_ms": "40500", "retry_after": "99"}, 40.5),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "inf"}, None),
    ],
)
async def test_the_pause_that_an_upstream_asks_for_reaches_the_client(
    headers: dict[str, str], seconds: float | None
) -> None:
    error = await failure_of(json_answer(openai_error("slow"), 429, **headers))
    assert error.retry_after_seconds == seconds


async def test_the_pause_may_be_a_date() -> None:
    later = formatdate(time() + 60, usegmt=True)
    error = await failure_of(json_answer(openai_error("slow"), 429, retry_after=later))
    assert error.retry_after_seconds is not None
    assert 58 < error.retry_after_seconds <= 60


async def test_a_short_pause_is_kept_before_the_next_attempt() -> None:
    slow = json_answer(openai_error("slow"), 429, retry_after_ms="1")
    # With its own backoff the client would wait for an hour.
    async with playing(RESPONSES, slow, RESPONSES.answer("text"), backoff_seconds=3600) as (
        provider,
        upstream,
    ):
        await outcome_of(provider.stream(a_context()))
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        json_answer(openai_error("slow"), 429, retry_after="3600"),
        json_answer(openai_error("pay", code="insufficient_quota"), 429),
        json_answer(openai_error("bad"), 400),
        json_answer(openai_error("bad"), 401),
    ],
)
@pytest.mark.parametrize("subject", ADAPTERS, ids=lambda subject: subject.name)
async def test_what_waiting_will_not_change_is_not_tried_again(subject: Any, refusal: Answer) -> None:
    async with playing(subject, refusal) as (provider, upstream):
        with pytest.raises(UpstreamError):
            await outcome_of(provider.stream(a_context()))
    assert len(upstream.requests) == 1


async def test_the_log_has_neither_key_nor_words(caplog: pytest.LogCaptureFixture) -> None:
    refusal = json_answer(openai_error(f"a secret: {SECRET}"), 500)
    with caplog.at_level(logging.DEBUG, logger="app.providers"):
        async with playing(RESPONSES, refusal, RESPONSES.answer("text")) as (provider, _):
            await outcome_of(provider.stream(a_context()))
    (record,) = [record for record in caplog.records if record.name == "app.providers.upstream"]
    assert record.getMessage() == "upstream.retried"
    assert "secret" not in str(vars(record))
