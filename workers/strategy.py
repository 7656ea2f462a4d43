"""How a worker takes a message: without Celery's requests, tracing and threads.

Those cost more than all that a run does here, and what they are for is elsewhere: runs are tasks of one event
loop, their state is in Postgres, and what a message says does not matter.
"""

from collections.abc import Callable
from functools import partial

from celery import Celery, Task
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

log = get_logger(__name__)


def at_once(task: Task, _app: Celery, consumer: Consumer) -> Callable[..., None]:
    """A `Task.Strategy`: the task is called as the message comes, with what acknowledges it."""

    def take(_message: object, _body: object, acknowledge: Callable[..., object], *_: object) -> None:
        task.run(partial(acknowledge, log, consumer.connection_errors))

    return take
