"""What an operator may choose about background responses; a part of `Settings`."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class BackgroundSettings(BaseSettings):
    """How many wait and run, how lost work is found again, and how long what it leaves is kept."""

    max_queued: int = Field(
        default=1000,
        gt=0,
        description="Background responses that one tenant may have waiting. 1,000: beyond that a client "
        "is told to come back (429), because a longer queue only hides that nobody works.",
    )
    max_running: int | None = Field(
        default=None,
        gt=0,
        description="Background responses of one tenant that run at once, over all workers. Unset: as many "
        "as there are workers for; tenants take turns, and none waits for what another has merely queued. "
        "Below what the workers can do at once it keeps room for others beside one tenant's long runs.",
    )
    lease_seconds: float = Field(
        default=15,
        ge=1,
        description="How long a silent worker keeps its response before another may have it, in seconds. "
        "15, renewed every five: longer than a pause of Postgres, shorter than a client's patience.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="How often a background response is tried before it fails, when workers vanish.",
    )
    rerun: Literal["if_no_output", "never", "always"] = Field(
        default="if_no_output",
        description="Whether lost work is done again. `if_no_output`: never against what a client has seen.",
    )
    queued_too_long_seconds: float = Field(
        default=10,
        gt=0,
        description="After this wait, in seconds, the reaper rings for a queued response again. "
        "10: a bell may have been lost with its broker.",
    )
    event_retention_seconds: float = Field(
        default=3600,
        gt=0,
        description="How long a finished stream's events are kept, in seconds. An hour: clients reconnect "
        "within minutes, and the response itself stays.",
    )
    ephemeral_result_seconds: float = Field(
        default=600,
        gt=0,
        description="How long the result of `background` with `store=false` can be polled, in seconds. "
        "600, as at OpenAI.",
    )
    follow_poll_seconds: float = Field(
        default=5,
        gt=0,
        description="How often a follower of a stream looks even without being notified, in seconds.",
    )
    worker_concurrency: int = Field(
        default=200,
        ge=1,
        description="Background responses that one worker process generates at once. 200: they wait for "
        "models, and a waiting one costs its context and little else.",
    )
    reap_interval_seconds: float = Field(
        default=5,
        gt=0,
        description="How often each worker looks for work that was lost or rang in vain, in seconds. "
        "5: what a lost bell or a dead worker can cost beyond its own limit, for one cheap query.",
    )
