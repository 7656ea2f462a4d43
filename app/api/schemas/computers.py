"""Items of a model that uses a computer: its actions, and the screenshots that answer them."""

from typing import Annotated, Literal, Required

from typing_extensions import TypedDict

from app.api.schemas.bounds import CallId, ImageUrl, Many, Strings, id_of
from app.api.schemas.made import Made
from app.api.schemas.unions import OneOf


class Point(TypedDict):
    x: int
    y: int


class Keyed(TypedDict, total=False):
    keys: Strings | None


class Click(Keyed):
    type: Literal["click"]
    button: Literal["left", "right", "wheel", "back", "forward"]
    x: int
    y: int


class DoubleClickOrMove(Keyed):
    type: Literal["double_click", "move"]
    x: int
    y: int


class Drag(Keyed):
    type: Literal["drag"]
    path: Many[Point]


class Keypress(TypedDict):
    type: Literal["keypress"]
    keys: Strings


class Scroll(Keyed):
    type: Literal["scroll"]
    scroll_x: int
    scroll_y: int
    x: int
    y: int


class TypeText(TypedDict):
    type: Literal["type"]
    text: str


class ScreenshotOrWait(TypedDict):
    type: Literal["screenshot", "wait"]


ComputerAction = Annotated[
    Click | DoubleClickOrMove | Drag | Keypress | Scroll | TypeText | ScreenshotOrWait, OneOf()
]


class SafetyCheck(TypedDict, total=False):
    id: Required[str]
    code: str | None
    message: str | None


class ComputerCall(Made, total=False):
    type: Required[Literal["computer_call"]]
    id: Required[Annotated[str, id_of("cu")]]
    call_id: Required[CallId]
    pending_safety_checks: Required[Many[SafetyCheck]]
    action: ComputerAction | None
    actions: Many[ComputerAction] | None


class Screenshot(TypedDict, total=False):
    type: Required[Literal["computer_screenshot"]]
    image_url: ImageUrl | None
    file_id: str | None


class ComputerCallOutput(Made, total=False):
    type: Required[Literal["computer_call_output"]]
    id: Annotated[str, id_of("cu", "fc")] | None
    call_id: Required[CallId]
    output: Required[Screenshot]
    acknowledged_safety_checks: Many[SafetyCheck] | None
