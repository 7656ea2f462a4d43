"""The settings of webhooks: fields of `Settings`, kept by themselves for their number."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import Field
from pydantic_settings import BaseSettings


class WebhookSettings(BaseSettings):
    """How events are delivered, and where to."""

    webhook_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="Networks that webhooks may be sent to though they are not public, as "
        '`["10.0.0.0/8"]`; plain `http://` is sent to these alone. Empty: a tenant must not reach what only '
        "this server can.",
    )
    webhook_timeout_seconds: float = Field(
        default=15,
        gt=0,
        le=300,
        description="How long an endpoint of webhooks may take to answer, in seconds. 15: it has only to "
        "note the event, and whoever needs longer is asked again.",
    )
    webhook_retry_seconds: float = Field(
        default=5,
        gt=0,
        description="The pause before a webhook is tried again, in seconds; doubled each time, up to 8 "
        "hours, a quarter more or less. 5: what is restarted is back by then. An endpoint that fails three "
        "times in a row is left alone as long, up to a minute.",
    )
    webhook_give_up_seconds: float = Field(
        default=72 * 3600,
        gt=0,
        description="How long a webhook is tried, in seconds. Three days, as at OpenAI: a weekend.",
    )
    webhook_concurrency: int = Field(
        default=64,
        ge=1,
        description="Webhooks that one worker process sends at once. 64; a quarter of it at most is one "
        "tenant's, half of it is to endpoints whose last attempt failed or took over 2 s.",
    )
    webhook_endpoint_concurrency: int = Field(
        default=4,
        ge=1,
        description="Webhooks that one worker process sends to one endpoint at once. 4; one at a time to an "
        "endpoint whose last attempt failed or took over 2 s.",
    )
    webhook_retention_seconds: float = Field(
        default=30 * 86400,
        gt=0,
        description="How long the log of a delivery is kept after its end, in seconds. 30 days: as long as "
        "anybody asks what became of it, or replays it.",
    )
    max_webhook_endpoints: int = Field(
        default=50,
        ge=0,
        description="Endpoints of webhooks that one tenant may have. 50: each of them is told of each event "
        "that it wants. 0 is none.",
    )
