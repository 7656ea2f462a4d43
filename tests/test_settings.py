import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from app.settings import ConfigurationError, Settings, Upstream, environment

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment():
        if name.startswith(("HOLDFAST_", "OPENAI_", "XDG_")):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "holdfast.toml"
        path.write_text(text)
        return path

    return written


def secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


EXAMPLE = """
database_url = "postgresql://user@host/db"
default_model = "fast"
pool_size = 7

[[upstreams]]
name = "openai"
protocol = "responses"
base_url = "https://api.example.com/v1/"
api_key_env = "EXAMPLE_KEY"
models = ["gpt-*", "o*"]
aliases = { fast = "gpt-5.4-mini" }
timeout_seconds = 600
max_retries = 2
"""


class TestSources:
    def test_a_file_is_read(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EXAMPLE_KEY", "sk-1")
        settings = Settings.load(write(EXAMPLE))
        (upstream,) = settings.effective_upstreams
        assert settings.default_model == "fast"
        assert upstream.models == ("gpt-*", "o*")
        assert upstream.aliases == {"fast": "gpt-5.4-mini"}
        assert upstream.base_url == "https://api.example.com/v1"
        assert secret(upstream.api_key) == "sk-1"

    def test_variables_go_over_the_file_and_the_command_line_over_both(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = write('pool_size = 7\nlog_level = "error"\nkeepalive_seconds = 3\n')
        monkeypatch.setenv("HOLDFAST_POOL_SIZE", "8")
        monkeypatch.setenv("HOLDFAST_LOG_LEVEL", "WARNING")
        settings = Settings.load(path, log_level="debug", state_dir=None)
        assert (settings.keepalive_seconds, settings.pool_size, settings.log_level) == (3, 8, "debug")

    def test_a_variable_names_the_file(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_CONFIG", str(write("pool_size = 9")))
        assert Settings.load().pool_size == 9

    def test_upstreams_fit_in_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_UPSTREAMS", json.dumps([{"name": "demo", "protocol": "offline"}]))
        assert [each.name for each in Settings.load().effective_upstreams] == ["demo"]

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_DATABASE_URL", "")
        assert Settings.load().database_url is None

    def test_building_the_value_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_POOL_SIZE", "8")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
        assert Settings().pool_size == 4
        assert [each.name for each in Settings().effective_upstreams] == ["offline"]

    def test_the_user_s_state_folder_is_the_default(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Settings().state_dir == tmp_path / ".local/state/holdfast"
        monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
        assert Settings().state_dir == Path("/elsewhere/holdfast")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert Settings().state_dir == Path("/var/lib/holdfast")


class TestDefaultUpstreams:
    def test_without_any_there_is_the_offline_model(self) -> None:
        (upstream,) = Settings.load().effective_upstreams
        assert (upstream.name, upstream.protocol, upstream.models) == ("offline", "offline", ("offline",))

    def test_the_sdk_s_key_makes_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
        offline, openai = Settings.load().effective_upstreams
        assert offline.serves("offline")
        assert (openai.name, openai.protocol, openai.base_url) == (
            "openai",
            "responses",
            "https://api.openai.com/v1",
        )
        assert secret(openai.api_key) == "sk-1"
        assert openai.serves("anything")

    def test_an_address_alone_makes_one_without_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1")
        _, openai = Settings.load().effective_upstreams
        assert (openai.base_url, openai.api_key) == ("http://127.0.0.1:9000/v1", None)

    def test_those_that_are_configured_stand_alone(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
        path = write('[[upstreams]]\nname = "demo"\nprotocol = "offline"\n')
        assert [each.name for each in Settings.load(path).effective_upstreams] == ["demo"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pool_sizes = 1", "pool_sizes: unknown setting; did you mean pool_size?"),
        ("pool_size = 0", "pool_size: Input should be greater than or equal to 1"),
        ("send_done = 7", "send_done: Input should be a valid boolean"),
        ('database_url = "mysql://u:hunter2@h/d"', "database_url: must start with postgresql://"),
        ('default_model = "gpt-5"', "default_model: no upstream serves 'gpt-5'"),
        ("pool_size =", "Invalid value"),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\ncompaction = "upstream"',
            "upstreams.0: compaction can be left to the upstream only with protocol 'responses'",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "grpc"',
            "upstreams.0.protocol: Input should be 'responses', 'chat_completions' or 'offline'",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\ntimeout = 3',
            "upstreams.0.timeout: unknown setting; did you mean timeout_seconds?",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "responses"',
            "upstreams.0: base_url is required for protocol 'responses'",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "responses"\nbase_url = "api.example.com"',
            "upstreams.0.base_url: must start with http:// or https://",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "responses"\nbase_url = "http://h"\napi_key_env = "NO_KEY"',
            "upstreams.0: api_key_env names NO_KEY, which is not set",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\ncontext_window_tokens = 0',
            "upstreams.0.context_window_tokens.*: Input should be greater than 0",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\ncontext_window_tokens = { "gpt-*" = "many" }',
            "upstreams.0.context_window_tokens.gpt-*: Input should be a valid integer",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\ncontext_window_tokens = true',
            "upstreams.0.context_window_tokens: must be a number of tokens, or a table of patterns",
        ),
        (
            '[[upstreams]]\nname = "a"\nprotocol = "offline"\n' * 2,
            "upstreams: two are named 'a'",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_file_and_key(
    text: str, problem: str, write: Write
) -> None:
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("HOLDFAST_POOLSIZE", "1", "HOLDFAST_POOLSIZE: unknown variable; did you mean HOLDFAST_POOL_SIZE?"),
        ("HOLDFAST_POOL_SIZE", "many", "HOLDFAST_POOL_SIZE: Input should be a valid integer"),
        ("HOLDFAST_UPSTREAMS", "[", "HOLDFAST_UPSTREAMS: not valid JSON"),
        ("HOLDFAST_UPSTREAMS", '[{"name": "a"}]', "HOLDFAST_UPSTREAMS.0.protocol: Field required"),
        ("HOLDFAST_CONFIG", "/no/such/file", "/no/such/file: no such file"),
        ("OPENAI_BASE_URL", "nonsense", "OPENAI_BASE_URL: must start with http:// or https://"),
    ],
)
def test_a_mistake_in_a_variable_is_one_line_that_names_it(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
def test_both_ways_to_write_the_database_s_address_are_one(scheme: str) -> None:
    settings = Settings(database_url=SecretStr(f"{scheme}://user:pw@host/db"))
    assert secret(settings.database_url) == "postgresql+asyncpg://user:pw@host/db"


def test_secrets_do_not_show() -> None:
    upstream = Upstream(name="a", protocol="responses", base_url="http://h", api_key=SecretStr("sk-1"))
    settings = Settings(database_url=SecretStr("postgresql://u:hunter2@h/d"), upstreams=(upstream,))
    assert "hunter2" not in repr(settings)
    assert "sk-1" not in repr(settings)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().pool_size = 3


@pytest.mark.parametrize("model", [Settings, Upstream])
def test_every_setting_is_documented(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("model", "served"),
    [("gpt-5.4", True), ("o3", True), ("fast", True), ("GPT-5", False), ("claude", False), ("xgpt-5", False)],
)
def test_patterns_and_aliases_decide_what_an_upstream_serves(model: str, served: Any) -> None:
    upstream = Upstream(
        name="a", protocol="offline", models=("gpt-*", "o*"), aliases={"fast": "gpt-5.4-mini"}
    )
    assert upstream.serves(model) is served


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (None, {}),
        ({}, {}),
        (128_000, {"*": 128_000}),
        ({"o3*": 200_000, "*": 128_000}, {"o3*": 200_000, "*": 128_000}),
    ],
)
def test_a_context_window_is_given_for_all_models_or_by_pattern(given: Any, limits: dict[str, int]) -> None:
    values = {"name": "a", "protocol": "offline", "context_window_tokens": given}
    assert Upstream.model_validate(values).context_window_tokens == limits


def test_without_a_context_window_there_is_no_limit() -> None:
    assert Upstream(name="a", protocol="offline").context_window_tokens == {}


def test_the_patterns_of_context_windows_keep_the_order_of_the_file(write: Write) -> None:
    text = """
    [[upstreams]]
    name = "a"
    protocol = "offline"
    [upstreams.context_window_tokens]
    "gpt-5*" = 400_000
    "*" = 8_192
    "gpt-4*" = 128_000
    """
    (upstream,) = Settings.load(write(text)).effective_upstreams
    assert list(upstream.context_window_tokens) == ["gpt-5*", "*", "gpt-4*"]
