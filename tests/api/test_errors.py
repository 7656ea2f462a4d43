"""Law L10: every error of ours has OpenAI's envelope, whatever class of the tree it is."""

from collections.abc import Iterator

import orjson
import pytest

from app.api.errors import of_failed_response, render
from app.errors import MAX_MESSAGE_CHARS, ServiceError, Unavailable, UpstreamError, UpstreamReport
from app.main import create_app
from app.settings import Settings

create_app(Settings())  # Every module that has an error of its own is imported by now.


def tree(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


KINDS = sorted(set(tree(ServiceError)), key=lambda kind: kind.__name__)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@kinds
def test_an_error_is_rendered_with_four_keys_and_its_own_status(kind: type[ServiceError]) -> None:
    error = kind("Words.")
    answer = render(error)
    body = orjson.loads(answer.body)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == "Words."
    assert answer.status_code == error.status
    assert answer.headers["content-type"] == "application/json"


@kinds
def test_the_type_follows_the_status(kind: type[ServiceError]) -> None:
    error = kind()
    shown = orjson.loads(render(error).body)["error"]["type"]
    wanted = (
        "rate_limit_error"
        if error.status == 429
        else "invalid_request_error"
        if error.status < 500
        else "server_error"
    )
    assert shown == wanted


@kinds
def test_without_words_it_says_what_its_class_means(kind: type[ServiceError]) -> None:
    assert kind().message == (kind.__doc__ or "").strip()
    assert kind().message.endswith((".", "!"))


@kinds
def test_a_long_message_is_cut(kind: type[ServiceError]) -> None:
    assert kind("w" * MAX_MESSAGE_CHARS).message == "w" * MAX_MESSAGE_CHARS
    assert kind("w" * 1_000_000).message == "w" * MAX_MESSAGE_CHARS + "..."


@kinds
def test_the_time_to_come_back_is_a_header(kind: type[ServiceError]) -> None:
    error = kind()
    error.retry_after_seconds = 0.25
    headers = render(error).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "250")


@kinds
def test_there_is_no_such_header_where_no_time_is_known(kind: type[ServiceError]) -> None:
    error = kind()
    error.retry_after_seconds = None
    assert "retry-after" not in render(error).headers


def test_a_server_without_its_database_asks_to_come_back() -> None:
    assert render(Unavailable()).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (504, "server_error"),
    ],
)
def test_what_an_upstream_said_is_told_by_its_status_and_its_secrets_are_kept(status: int, kind: str) -> None:
    report = UpstreamReport("openai", status=status, detail="key sk-secret")
    answer = render(UpstreamError("Sorry.", status=status, code="some_code", param="model", report=report))
    assert answer.status_code == status
    assert orjson.loads(answer.body) == {
        "error": {"message": "Sorry.", "type": kind, "param": "model", "code": "some_code"}
    }
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": "server_error", "message": "x"}, 500, "server_error"),
        ({"code": "rate_limit_exceeded", "message": "x"}, 429, "rate_limit_exceeded"),
        ({"code": "invalid_image_url", "message": "x"}, 400, "invalid_image_url"),
        ({"code": "vector_store_timeout", "message": "x"}, 500, "vector_store_timeout"),
        ({"code": "never_heard_of", "message": "x"}, 500, "never_heard_of"),
        ({}, 500, "server_error"),
        ({"code": None, "message": None}, 500, "server_error"),
    ],
)
def test_a_failed_response_becomes_an_error_for_who_waits(
    error: dict[str, str], status: int, code: str
) -> None:
    told = of_failed_response(error)
    assert (told.status, told.code) == (status, code)
    assert told.message
