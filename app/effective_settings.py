"""Settings as they may be told: each by its name, and of a secret only what shows that it has changed."""

from collections.abc import Mapping
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from app.settings import Settings

MASK = "********"


def told(settings: Settings) -> dict[str, Any]:
    """Every setting in effect, as JSON has it; `upstreams` by their names.

    Keys are random, so eight digits of a hash tell nothing but that one has changed. A password that a
    person chose could be guessed by them: of a URL it is left out, and a new one is no change.
    """
    fields = {name: _told(name, getattr(settings, name)) for name in Settings.model_fields}
    fields["upstreams"] = {each.name: _fields(each) for each in settings.effective_upstreams}
    return fields


def masked_url(url: SecretStr) -> str:
    """The URL without its password and without its query, which may hold another one."""
    parts = urlsplit(url.get_secret_value())
    user, _, address = parts.netloc.rpartition("@")
    name, secret, _ = user.partition(":")
    who = f"{name}{':' + MASK if secret else ''}@" if user else ""
    return f"{parts.scheme}://{who}{address}{parts.path}"


def _fields(model: BaseModel) -> dict[str, Any]:
    return {name: _told(name, value) for name, value in model}


def _told(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return masked_url(value) if name.endswith("_url") else f"sha256:{_hash(value)}"
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _told(name, each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_told(name, each) for each in value]
    return str(value) if isinstance(value, Path | IPv4Network | IPv6Network) else value


def _hash(secret: SecretStr) -> str:
    return sha256(secret.get_secret_value().encode()).hexdigest()[:8]
