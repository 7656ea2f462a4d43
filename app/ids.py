"""Mint and parse identifiers: `resp_` + 32 hex of a UUIDv7, items `msg_` + the same 32 hex + 4 hex of place.

A UUIDv7 sorts by time (RFC 9562 §5.7), so a primary key is also the order of creation and an insert
touches the right end of the index. An item's id carries its response's id and its place in it, so an
item is found without an index of its own.
"""

import os
import threading
import time
import uuid

RESPONSE = "resp_"
CONVERSATION = "conv_"
KEY = "hf_"
WEBHOOK_ENDPOINT = "we_"
EVENT = "evt_"
PROMPT = "pmpt_"

_DIGITS = 32

# The prefix of each item type's id (reference/Responses API "ids"); `msg_` is for messages.
ITEM_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
    "file_search_call": "fs_",
    "web_search_call": "ws_",
    "code_interpreter_call": "ci_",
    "image_generation_call": "ig_",
    "computer_call": "cu_",
    "computer_call_output": "cuo_",
    "local_shell_call": "lsh_",
    "local_shell_call_output": "lsho_",
    "shell_call": "sh_",
    "shell_call_output": "sho_",
    "apply_patch_call": "apc_",
    "apply_patch_call_output": "apco_",
    "mcp_list_tools": "mcpl_",
    "mcp_call": "mcp_",
    "mcp_approval_request": "mcpr_",
    "mcp_approval_response": "mcpa_",
    "tool_search_call": "tsc_",
    "tool_search_output": "tso_",
    "additional_tools": "at_",
    "configuration_update": "cfg_",
    "program": "prog_",
    "program_output": "progo_",
    "compaction": "cmp_",
    "compaction_trigger": "cmpt_",
    "agent_message": "amsg_",
    "multi_agent_call": "mac_",
    "multi_agent_call_output": "maco_",
}

_last: list[int] = [0]
_turnstile = threading.Lock()


def new_uuid(*, is_passing: bool = False) -> uuid.UUID:
    """A UUIDv7 that is greater than every one this process has minted before, in any thread.

    The 12 bits after the milliseconds count up within one millisecond (RFC 9562 §6.2, method 1),
    borrowing from the next millisecond when they run out. The last bit is set if what it names is
    passing: no row has this key for good.
    """
    with _turnstile:
        tick = max((time.time_ns() // 1_000_000) << 12 | (os.urandom(1)[0] << 3), _last[0] + 1)
        _last[0] = tick
    millis, count = tick >> 12, tick & 0xFFF
    tail = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFE | is_passing
    return uuid.UUID(int=millis << 80 | 0x7 << 76 | count << 64 | 0b10 << 62 | tail)


def created_at(value: uuid.UUID) -> int:
    """The whole seconds since 1970 at which this UUIDv7 was minted."""
    return (value.int >> 80) // 1000


def response_id(value: uuid.UUID) -> str:
    return RESPONSE + value.hex


def parse_response_id(text: str) -> uuid.UUID | None:
    """The UUID in a well-formed response id, or None: such a response cannot exist."""
    return _uuid(text[len(RESPONSE) :]) if text.startswith(RESPONSE) else None


def conversation_id(value: uuid.UUID) -> str:
    return CONVERSATION + value.hex


def parse_conversation_id(text: str) -> uuid.UUID | None:
    """The UUID in a well-formed conversation id, or None: such a conversation cannot exist."""
    return _uuid(text[len(CONVERSATION) :]) if text.startswith(CONVERSATION) else None


def key_id(value: uuid.UUID) -> str:
    return KEY + value.hex


def parse_key_id(text: str) -> uuid.UUID | None:
    """The UUID in a well-formed id of an API key, or None: such a key cannot exist."""
    return _uuid(text[len(KEY) :]) if text.startswith(KEY) else None


def webhook_endpoint_id(value: uuid.UUID) -> str:
    return WEBHOOK_ENDPOINT + value.hex


def parse_webhook_endpoint_id(text: str) -> uuid.UUID | None:
    """The UUID in a well-formed id of a webhook's endpoint, or None: such an endpoint cannot exist."""
    return _uuid(text[len(WEBHOOK_ENDPOINT) :]) if text.startswith(WEBHOOK_ENDPOINT) else None


def event_id(value: uuid.UUID) -> str:
    return EVENT + value.hex


def parse_event_id(text: str) -> uuid.UUID | None:
    """The UUID in a well-formed id of an event, or None: such an event cannot exist."""
    return _uuid(text[len(EVENT) :]) if text.startswith(EVENT) else None


def prompt_id(value: uuid.UUID) -> str:
    """The id of a prompt for which nobody has chosen one."""
    return PROMPT + value.hex


def parse_prompt_id(text: str) -> uuid.UUID | None:
    """The UUID in the id of a prompt that we have minted, or None: somebody chose it."""
    return _uuid(text[len(PROMPT) :]) if text.startswith(PROMPT) else None


def item_id(kind: str, response: uuid.UUID, place: int) -> str:
    """The id of the item at `place` (input and output counted together) in a response."""
    return f"{ITEM_PREFIXES.get(kind, 'item_')}{response.hex}{place:04x}"


def parse_item_id(text: str) -> tuple[uuid.UUID, int] | None:
    """The response and place that one of our own item ids names, or None for a client's own id."""
    tail = text.rpartition("_")[2]
    value, place = _uuid(tail[:32]), _integer(tail[32:])
    return (value, place) if value and place is not None and f"{place:04x}" == tail[32:] else None


def names_row(item_id: str) -> bool:
    """Whether this is an item id of ours whose response was to be stored, so that the id finds the item."""
    named = parse_item_id(item_id)
    return named is not None and not named[0].int & 1


def request_id() -> str:
    return "req_" + os.urandom(16).hex()


def call_id() -> str:
    """A `call_id` for upstreams that send none."""
    return "call_" + os.urandom(12).hex()


def _uuid(text: str) -> uuid.UUID | None:
    """The UUID whose canonical hex this is: no second spelling may name the same row."""
    value = _integer(text) if len(text) == _DIGITS else None
    return uuid.UUID(int=value) if value is not None and f"{value:032x}" == text else None


def _integer(text: str) -> int | None:
    """A number in hex. Python reads underscores and other scripts' digits as well: compare what comes out."""
    try:
        value = int(text, 16)
    except ValueError:
        return None
    return value if value >= 0 else None
