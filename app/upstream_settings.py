"""The upstreams of a configuration, and the words for what is wrong with one.

Read through `app.settings`, which nothing but the roots may import.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict


class ConfigurationError(Exception):
    """A setting is wrong. The message names it and never shows a secret."""


def environment() -> Mapping[str, str]:
    """The variables of this process: the one place where they are read."""
    found = EnvSettingsSource(BaseSettings, case_sensitive=True, env_prefix="").env_vars
    return {name: value for name, value in found.items() if value is not None}


class ModelPrice(BaseModel):
    """Dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0, le=1_000_000)
    output: float = Field(ge=0, le=1_000_000)
    cached_input: float | None = Field(default=None, ge=0, le=1_000_000)


class Upstream(BaseModel):
    """A remote API that serves models. The first upstream with a match serves a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    name: str = Field(min_length=1, description="How logs and errors call this upstream; unique.")
    protocol: Literal["responses", "chat_completions", "offline"] = Field(
        description="What the upstream speaks. `offline` is the built-in model, which needs no network."
    )
    base_url: str | None = Field(
        default=None,
        description="Address up to and including the version, as OpenAI SDKs take it; none for `offline`.",
    )
    api_key_env: str | None = Field(
        default=None,
        description="Name of the variable that holds the key, so that a file need not hold a secret.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="The key itself; filled from `api_key_env` where that is given."
    )
    models: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Glob patterns, case-sensitive. Default: every name, as for a single upstream.",
    )
    aliases: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="What the client says = what the upstream is asked. An alias is served as well.",
    )
    timeout_seconds: float = Field(
        default=600,
        gt=0,
        description="Longest silence of the upstream. 600 s, as in OpenAI SDKs: models think that long.",
    )
    max_retries: int = Field(
        default=2,
        ge=0,
        description="Further tries before the first byte of an answer, never after. 2, as in OpenAI SDKs.",
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens",
        description="Where `chat_completions` takes the limit: the older name is known to more servers.",
    )
    context_window_tokens: dict[str, PositiveInt] = Field(
        default_factory=dict[str, int],
        description="How many tokens a model takes, output included: glob pattern of the upstream's own "
        "names = tokens, the first match counts; or one number for all. What is longer, by an estimate of "
        "four bytes a token, is refused or, with `truncation: auto`, cut. Default: no limit is checked.",
    )

    compaction: Literal["server", "upstream"] = Field(
        default="server",
        description="Who compacts a long context: this server, the same for every protocol; or the upstream, "
        "where it speaks `responses` and can: its compaction items are then readable by it alone.",
    )

    prices: dict[str, ModelPrice] = Field(
        default_factory=dict[str, ModelPrice],
        description="Dollars for a million tokens: glob pattern of the models' names = { input, output, "
        "cached_input }, the first match counts. For statistics, where the upstream reports no cost itself. "
        "Default: such a cost is unknown.",
    )

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must start with http:// or https://, and name a host")
        if parts.username is not None:
            raise ValueError("must not hold a user or a password: give the key by api_key_env")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().isprintable():
            raise ValueError("must be one line of printable characters")
        return value

    @field_validator("context_window_tokens", mode="before")
    @classmethod
    def _by_pattern(cls, value: Any) -> Any:
        """One number counts for all models."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"*": value}
        if value is not None and not isinstance(value, Mapping):
            raise ValueError("must be a number of tokens, or a table of patterns and numbers of tokens")
        return value or {}

    @model_validator(mode="before")
    @classmethod
    def _resolve_key(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("api_key_env") or values.get("api_key"):
            return values
        key = environment().get(str(values["api_key_env"]))
        if not key:
            raise ValueError(f"api_key_env names {values['api_key_env']}, which is not set")
        return values | {"api_key": key}

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.protocol == "offline" and (self.base_url or self.api_key):
            raise ValueError("the offline model takes no base_url and no key")
        if self.compaction == "upstream" and self.protocol != "responses":
            raise ValueError("compaction can be left to the upstream only with protocol 'responses'")
        if self.protocol != "offline" and not self.base_url:
            raise ValueError(f"base_url is required for protocol {self.protocol!r}")
        return self

    def serves(self, model: str) -> bool:
        return model in self.aliases or any(fnmatchcase(model, pattern) for pattern in self.models)


OFFLINE = Upstream(name="offline", protocol="offline", models=("offline",))


class _OpenAIVariables(BaseSettings):
    """The variables that the OpenAI SDKs read; an empty one counts as unset, as in a shell."""

    model_config = SettingsConfigDict(env_prefix="OPENAI_", extra="ignore", env_ignore_empty=True)

    api_key: SecretStr | None = None
    base_url: str = "https://api.openai.com/v1"


def default_upstreams() -> tuple[Upstream, ...]:
    """The offline model, and after it an `openai` made of the SDKs' variables where one is set."""
    openai = _OpenAIVariables()
    if not openai.model_fields_set:
        return (OFFLINE,)
    try:
        return (
            OFFLINE,
            Upstream(name="openai", protocol="responses", base_url=openai.base_url, api_key=openai.api_key),
        )
    except ValidationError as error:
        raise ConfigurationError(f"OPENAI_BASE_URL: {words(error.errors()[0])}") from None


def words(detail: ErrorDetails) -> str:
    return detail["msg"].removeprefix("Value error, ")
