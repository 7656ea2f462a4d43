"""Which clients a server is for beside OpenAI's own."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class DialectSettings(BaseSettings):
    """Part of `app.settings.Settings`."""

    dialect: Literal["openai", "openrouter"] = Field(
        default="openai",
        description="How responses and errors are shown, unless the request's key or its `Holdfast-Dialect` "
        "header says otherwise. `openrouter` adds `output_text` and costs, and its clients read its errors.",
    )
    loose_bounds: bool = Field(
        default=False,
        description="Let `max_output_tokens`, `max_tool_calls` and `top_logprobs` be any number from 0 on, "
        "as some gateways do. Off, as at OpenAI: what a model cannot do is told at once.",
    )
