"""Every knob of Holdfast, read once and frozen. Nothing else reads the environment.

`Settings.load` is how a process starts: a TOML file, `HOLDFAST_*` variables over it. `Settings(...)`
takes only what it is given, so a test needs no clean environment.
"""

import base64
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from app.background_settings import BackgroundSettings
from app.dialect_settings import DialectSettings
from app.socket_settings import SocketSettings
from app.upstream_settings import OFFLINE, ConfigurationError, Upstream, default_upstreams, environment, words
from app.webhook_settings import WebhookSettings

PREFIX = "HOLDFAST_"
CONFIG_VARIABLE = "HOLDFAST_CONFIG"

KEY_BYTES = 32
_URL_SAFE = str.maketrans("-_", "+/")

BROKER_SCHEMES = ("redis://", "rediss://", "redis+socket://", "amqp://", "amqps://")
"""Valkey speaks the Redis protocol and goes by its name."""


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    base = environment().get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "holdfast"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BackgroundSettings, DialectSettings, SocketSettings, WebhookSettings):
    """What an operator may choose. Durations are seconds and sizes bytes; the name says which."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        env_prefix=PREFIX,
        env_ignore_empty=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL 15 or later, `postgresql://user:password@host/db`. "
        "Unset: `holdfast serve` runs an embedded one in `state_dir`, so that nothing need be installed.",
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Folder of the embedded Postgres and Valkey. Default: the user's state folder "
        "(`$XDG_STATE_HOME/holdfast` or `~/.local/state/holdfast`), for root `/var/lib/holdfast`.",
    )
    embedded_postgres_bin: Path | None = Field(
        default=None,
        description="Folder with `postgres` and `initdb` for the embedded Postgres. "
        "Unset: the binaries that were installed with Holdfast, else the newest of the system.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Celery broker that rings the bell for background responses: Redis or Valkey "
        "(`redis://host:6379/0`) or RabbitMQ (`amqp://user:password@host//`), the same one for the API and "
        "the worker. What it loses is late and never lost. Unset: `holdfast serve` runs a Valkey of its own.",
    )
    idempotency_retention_seconds: float = Field(
        default=86400,
        gt=0,
        description="How long an `Idempotency-Key` stands for its first request, in seconds. "
        "A day: longer than any client retries, and what it stands for is stored anyway.",
    )
    seal_key: SecretStr | None = Field(
        default=None,
        description="Key that seals what is secret in the tools of background responses while they wait, and "
        "the secrets of webhooks: 32 random bytes in base64, as `openssl rand -base64 32` makes them; the "
        "same for the API and the worker. Unset: `holdfast serve` with its own Postgres keeps one in "
        "`state_dir`; elsewhere `background` with such tools is refused, and so are webhooks.",
    )
    seal_keys_old: tuple[SecretStr, ...] = Field(
        default=(),
        description="Earlier seal keys, which still open what they sealed. Empty; after a change of the "
        "key the old one is needed until what was queued before has ended, and endpoints of webhooks have "
        "new secrets.",
    )
    conversation_wait_seconds: float = Field(
        default=0,
        ge=0,
        le=600,
        description="How long a create waits for a conversation in which another response runs, in seconds, "
        "unless its `Holdfast-Conversation-Wait` header says otherwise. 0 refuses at once, as at OpenAI.",
    )
    on_open_tool_calls: Literal["reject", "interrupt"] = Field(
        default="reject",
        description="What becomes of tool calls that new input leaves without an output, unless the "
        "`Holdfast-On-Open-Tool-Calls` header says otherwise. `reject`, as at OpenAI, names them; "
        "`interrupt` stores an explicit interrupted result for each, so that a conversation can go on.",
    )
    default_model: str | None = Field(
        default=None,
        description="Model of a request whose `model` is null or absent. "
        "Unset: `model` is required, as at OpenAI.",
    )
    upstreams: tuple[Upstream, ...] = Field(
        default=(),
        description="Where models are served. Unset: the offline model alone, "
        "and an upstream `openai` made from OPENAI_API_KEY and OPENAI_BASE_URL where they are set.",
    )
    key_cache_seconds: float = Field(
        default=5,
        gt=0,
        description="How long a process remembers whom an API key stands for, in seconds: what a revocation, "
        "an expiry or the creation of the first key may lag. 5: one cheap query per key in that time.",
    )
    max_body_bytes: int = Field(
        default=100 * 1024 * 1024,
        gt=0,
        description="Largest request body, in bytes. 100 MiB: images and files come inline, as base64.",
    )
    body_timeout_seconds: float = Field(
        default=30,
        gt=0,
        description="How long a request's headers, and each MiB of its body, may take to arrive, in seconds. "
        "30: slower than any client that means well, and nobody holds connections open for nothing.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024,
        ge=1024,
        description="Largest head of a request, its URL included, in bytes. 64 KiB, as common proxies take.",
    )
    max_input_items: int = Field(
        default=10_000,
        gt=0,
        description="Items in the `input` of one request. 10,000: beyond what any context window holds of "
        "real turns, and a second's work to check.",
    )
    max_item_bytes: int = Field(
        default=100 * 1024 * 1024,
        gt=0,
        description="Largest item of a request, in bytes of JSON. 100 MiB, as the body: a file of 70 MB "
        "comes in one item.",
    )
    max_open_streams: int = Field(
        default=2000,
        gt=0,
        description="Streams that one tenant may have open in one API process, followed ones too. 2,000: "
        "more than a process writes to in time; who forgets to close them is stopped before memory is full.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        gt=0,
        description="Responses that one tenant may create in a minute, over all processes. Unset: any "
        "number, and nothing is counted.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        gt=0,
        description="Tokens that one tenant may use in a minute, over all processes: the estimate of a "
        "create's new input when it comes, and what is reported as used once it has ended. Unset: any "
        "number, and nothing is counted.",
    )
    keepalive_seconds: float = Field(
        default=15,
        gt=0,
        description="Silence after which a stream carries a comment, in seconds. "
        "15: common proxies close a connection that is idle for 60 or 30.",
    )
    send_done: bool = Field(
        default=True,
        description="End HTTP streams with `data: [DONE]`. On: SDKs accept it and some clients wait for it.",
    )
    stream_obfuscation: bool = Field(
        default=True,
        description="Pad delta events to even lengths unless the request says otherwise. "
        "On, as at OpenAI: it hides token lengths from whoever watches encrypted traffic.",
    )
    foreground_on_disconnect: Literal["cancel", "finish"] = Field(
        default="cancel",
        description="What happens when the client of a foreground response hangs up. "
        "`cancel`, as at OpenAI, saves tokens; `finish` completes and stores it.",
    )
    max_run_seconds: float = Field(
        default=3600,
        gt=0,
        description="Longest generation of one response, in seconds. 3600: "
        "beyond the longest reasoning runs, short enough to free what hangs.",
    )
    pool_size: int = Field(
        default=4,
        ge=1,
        description="Database connections per API process. 4: a transaction lasts milliseconds and none "
        "is open while a model answers; multiply by processes and compare with `max_connections`.",
    )
    statement_cache: bool = Field(
        default=True,
        description="Keep prepared statements per connection. On for speed; "
        "turn off behind a PgBouncer that pools transactions.",
    )
    shutdown_grace_seconds: int = Field(
        default=25,
        ge=0,
        description="Time that running requests get to end after SIGTERM, in seconds. "
        "25: just under the 30 that container platforms allow.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info",
        description="Least severe message that is logged. `info` tells what was refused, claimed or ended.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read behind the caller's back; `load` reads, and says in which order."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def load(cls, config: Path | None = None, **overrides: Any) -> Self:
        """Read the file, the variables over it, and `overrides` (of the command line) over both.

        Args:
            config: The TOML file; without it the one that HOLDFAST_CONFIG names, if any.
            overrides: Settings by name; None means not given.

        Raises:
            ConfigurationError: an unknown key or variable, or a bad value.
        """
        variables = environment()
        path = config or (Path(variables[CONFIG_VARIABLE]) if variables.get(CONFIG_VARIABLE) else None)
        from_file = _read_file(cls, path) if path else {}
        from_variables = _read_variables(cls, variables)
        given = {key: value for key, value in overrides.items() if value is not None}
        values = from_file | from_variables | given
        if not values.get("upstreams"):
            values["upstreams"] = default_upstreams()
        try:
            return cls(**values)
        except ValidationError as error:
            problems = (_describe(cls, detail, path, from_variables) for detail in error.errors())
            raise ConfigurationError("; ".join(problems)) from None

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        scheme, separator, rest = value.get_secret_value().partition("://")
        if scheme not in {"postgresql", "postgresql+asyncpg"} or not separator:
            raise ValueError("must start with postgresql://")
        _ = urlsplit(f"http://{rest}").port  # Raises ValueError where it is no port.
        return SecretStr(f"postgresql+asyncpg://{rest}")

    @field_validator("seal_key", "seal_keys_old")
    @classmethod
    def _whole_keys(
        cls, value: SecretStr | tuple[SecretStr, ...] | None
    ) -> SecretStr | tuple[SecretStr, ...] | None:
        for key in value if isinstance(value, tuple) else (value,):
            if key:
                key_of(key)
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(BROKER_SCHEMES):
            raise ValueError(f"must start with {', '.join(BROKER_SCHEMES[:-1])} or {BROKER_SCHEMES[-1]}")
        return value

    @field_validator("state_dir", "embedded_postgres_bin")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else None

    @model_validator(mode="after")
    def _upstreams_agree(self) -> Self:
        names = [upstream.name for upstream in self.upstreams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"upstreams: two are named {name!r}")
        model = self.default_model
        if model is not None and not any(upstream.serves(model) for upstream in self.effective_upstreams):
            raise ValueError(f"default_model: no upstream serves {model!r}")
        return self

    @property
    def effective_upstreams(self) -> tuple[Upstream, ...]:
        """The upstreams in the order in which they are asked; never empty."""
        return self.upstreams or (OFFLINE,)


def key_of(text: SecretStr) -> bytes:
    """The bytes of a seal key, out of base64 of either alphabet.

    Raises:
        ValueError: it is not base64 of 32 bytes; the message does not show it.
    """
    try:
        key = base64.b64decode(text.get_secret_value().strip().translate(_URL_SAFE), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be {KEY_BYTES} bytes in base64")
    return key


def _read_file(cls: type[BaseSettings], path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file")
    try:
        return TomlConfigSettingsSource(cls, toml_file=path).toml_data
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


# Kubernetes gives each pod such variables for a Service that is called holdfast.
_SERVICE_LINK = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)\w*|PORT(_\w+)?)$")


def _read_variables(cls: type[BaseSettings], variables: Mapping[str, str]) -> dict[str, Any]:
    known = {CONFIG_VARIABLE, *(PREFIX + name.upper() for name in cls.model_fields)}
    for name in variables:
        if _SERVICE_LINK.match(name.upper()):
            continue
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise ConfigurationError(f"{name}: unknown variable{_nearest(name.upper(), known)}")
    try:
        return EnvSettingsSource(cls)()
    except SettingsError as error:
        # It says: error parsing value for field "NAME" from source "EnvSettingsSource".
        field = str(error).split('"')[1]
        raise ConfigurationError(f"{PREFIX}{field.upper()}: not valid JSON") from None


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _describe(
    cls: type[BaseSettings], detail: ErrorDetails, path: Path | None, from_variables: Mapping[str, Any]
) -> str:
    """One problem in one line: where, which key, what is wrong."""
    keys = [str(part) for part in detail["loc"]]
    told = words(detail)
    if detail["type"] == "extra_forbidden":
        fields = Upstream.model_fields if len(keys) > 1 else cls.model_fields
        told = "unknown setting" + _nearest(keys[-1], set(fields))
    if keys and keys[0] in from_variables:
        keys[0] = PREFIX + keys[0].upper()
    elif path:
        return f"{path}: {'.'.join(keys)}{': ' if keys else ''}{told}"
    return f"{'.'.join(keys)}: {told}" if keys else told
