"""Logs: one event per line, past tense and dotted (`response.claimed`), facts as keys.

JSON where a machine reads standard error, colours where a person does. Everything bound with
`structlog.contextvars.bind_contextvars` is on every line of that task: the edge binds `request_id`,
which is the correlation id that the client got in `x-request-id`.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

import orjson
import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

# These report every step at info: what they have to say to an operator begins at warning.
TALKATIVE = ("uvicorn.error", "uvicorn.access", "alembic", "asyncio", "celery", "kombu", "amqp", "redis")


def configure_logging(level: str) -> None:
    """Send our events and those of every library through one handler to standard error.

    Suppressed levels of our own events cost one no-op call. Repeating it replaces the set-up.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_render()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _render() -> "list[Processor]":
    if sys.stderr.isatty():
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    # Plain tracebacks in both cases: the richer ones print local variables, which hold what people wrote.
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _json(event: Any, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
