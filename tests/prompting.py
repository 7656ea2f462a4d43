"""Prompts as tests make and use them."""

from typing import Any

import httpx2

PROMPTS = "/v1/prompts"
NO_PROMPT = "pmpt_" + "0" * 32
"""A well-formed id of no prompt."""


def keep(api: httpx2.Client, template: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A new prompt."""
    answer = api.post(PROMPTS, json={"template": template, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def extend(api: httpx2.Client, name: str, template: dict[str, Any]) -> dict[str, Any]:
    """A new version of a prompt."""
    answer = api.post(f"{PROMPTS}/{name}/versions", json={"template": template})
    assert answer.status_code == 200, answer.text
    return answer.json()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def message(role: str, text: str) -> dict[str, Any]:
    """A message as it is rendered."""
    if role == "assistant":
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    else:
        part = {"type": "input_text", "text": text}
    return {"type": "message", "role": role, "content": [part]}
