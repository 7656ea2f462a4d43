"""Lists of responses as tests ask for them."""

import itertools
import time
from typing import Any

import httpx2

from tests.api.asking import CREATE

STATS = f"{CREATE}/stats"
_numbers = itertools.count(time.time_ns())


def unique(kind: str = "w") -> str:
    """A word that no other response of this database has."""
    return f"{kind}{next(_numbers):x}"


def listed(api: httpx2.Client, **params: Any) -> list[dict[str, Any]]:
    answer = api.get(CREATE, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def names(api: httpx2.Client, **params: Any) -> list[str]:
    return [row["id"] for row in listed(api, **params)]
