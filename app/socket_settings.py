"""What an operator may choose about WebSockets; a part of `Settings`."""

from pydantic import Field
from pydantic_settings import BaseSettings


class SocketSettings(BaseSettings):
    """Bounds of one connection and of all. How many lanes it has is not a choice: clients count on it."""

    websocket_max_seconds: float = Field(
        default=3600,
        gt=0,
        le=3600,
        description="Longest life of a WebSocket, in seconds. 3600, as at OpenAI: clients are told to open "
        "a new one, so that processes can be replaced and nothing is remembered for ever.",
    )
    websocket_ping_seconds: float = Field(
        default=20,
        gt=0,
        description="How often a WebSocket is pinged, in seconds. "
        "20: common proxies close a connection that is idle for 60 or 30.",
    )
    websocket_pong_seconds: float = Field(
        default=300,
        gt=0,
        description="How long a client may owe the answer to a ping before its WebSocket is closed, in "
        "seconds. 300: a client that runs a tool for minutes reads nothing meanwhile, and is not gone.",
    )
    websocket_max_open: int = Field(
        default=1000,
        gt=0,
        description="WebSockets that one tenant may have open in one API process. 1,000: an idle one is "
        "cheap; who forgets to close them is stopped before others notice.",
    )
    websocket_memory_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=0,
        description="What one WebSocket may remember of responses with `store=false`, in bytes. 32 MiB: "
        "eight of the longest contexts of text. Beyond it the lane that was idle for longest forgets.",
    )
    websocket_total_memory_bytes: int = Field(
        default=512 * 1024 * 1024,
        ge=0,
        description="What all WebSockets of one API process may remember of responses with `store=false`, in "
        "bytes. 512 MiB: sixteen full ones, or a thousand of half a MiB. Beyond it the tenant who has the "
        "most forgets, in the lane that was idle for longest.",
    )
