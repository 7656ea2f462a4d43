import json
import logging
from typing import Any

import pytest
import structlog

from app.observability import configure_logging


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_machine_gets_json_with_the_correlation_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.contextvars.bind_contextvars(request_id="req_1")
    structlog.get_logger("app.somewhere").info("response.created", response_id="resp_1")
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "response.created",
        "level": "info",
        "logger": "app.somewhere",
        "request_id": "req_1",
        "response_id": "resp_1",
    }


def test_a_library_s_messages_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.contextvars.bind_contextvars(request_id="req_1")
    logging.getLogger("somebody.else").warning("went %s", "wrong")
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["request_id"]) == ("went wrong", "warning", "req_1")


def test_what_is_below_the_level_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    structlog.get_logger().info("response.created")
    logging.getLogger("somebody.else").info("hello")
    configure_logging("debug")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert lines(capsys) == []


def test_an_exception_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    written = {"input": "a secret"}
    try:
        written["output"]
    except KeyError:
        structlog.get_logger().exception("request.failed")
    (line,) = lines(capsys)
    assert "KeyError: 'output'" in line["exception"]
    assert "a secret" not in line["exception"]
