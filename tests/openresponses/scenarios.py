"""What is asked of the server: one request for each thing that a response can hold or come to."""

from typing import Any

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PLAIN_TOOL = {"type": "function", "name": "now"}

SCENARIOS: dict[str, dict[str, Any]] = {
    "text": {"input": "Say hello."},
    "no words": {"input": "::words 1 0"},
    "items": {
        "input": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Again."},
        ]
    },
    "image": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
                ],
            }
        ]
    },
    "every option": {
        "input": "hi",
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "max_output_tokens": 100,
        "max_tool_calls": 2,
        "parallel_tool_calls": False,
        "truncation": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "text": {"format": {"type": "text"}, "verbosity": "low"},
    },
    "not stored": {"input": "hi", "store": False},
    "log probabilities": {"input": "hi", "top_logprobs": 3, "include": ["message.output_text.logprobs"]},
    "call": {"input": '::call get_weather {"city":"Oslo"}', "tools": [WEATHER, PLAIN_TOOL]},
    "calls": {"input": "::call get_weather {}\n::call now", "tools": [WEATHER, PLAIN_TOOL]},
    "forced call": {"input": "hi", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
    "allowed tools": {
        "input": "hi",
        "tools": [WEATHER, PLAIN_TOOL],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
    },
    "reasoning": {"input": "::reason Let me think.\nhi"},
    "reasoning and a call": {"input": "::reason Let me think.\n::call now", "tools": [PLAIN_TOOL]},
    "refusal": {"input": "::refuse I will not."},
    "incomplete": {"input": "::words 50 0", "max_output_tokens": 16},
    "incomplete call": {"input": f'::call now {{"a":"{"b " * 50}"}}', "tools": [PLAIN_TOOL], "max_output_tokens": 16},
    "incomplete reasoning": {"input": f"::reason {'so ' * 50}\nhi", "max_output_tokens": 16},
    "json": {"input": "hi", "text": {"format": {"type": "json_object"}}},
    "json schema": {
        "input": "hi",
        "text": {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}},
    },
}  # fmt: skip

FAILING: dict[str, dict[str, Any]] = {
    "failed": {"input": "::fail server_error\nhi"},
    "failed reasoning": {"input": "::reason Let me think.\n::fail rate_limit_exceeded"},
    "dropped": {"input": "::drop"},
    "dropped call": {"input": '::call now {"a":"b c d e f"}\n::drop', "tools": [PLAIN_TOOL]},
}
"""What ends in an error midway: an HTTP error for those who wait, the last event for those who listen."""
