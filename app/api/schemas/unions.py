"""Unions that are told apart by a field or by JSON type, each with the one error its client should read."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import get_type_hints, is_typeddict

from app.api.schemas import refusals
from app.errors import InvalidRequest

MARK = "\x00"
"""Begins every name of a variant, so that it can be told from a field in the path of an error."""

REFUSED = "refused"
"""The type of our own validation errors: `ctx["refuse"]` words them once the value and its path are known."""

Refuse = Callable[[Any, str], InvalidRequest]

# Tags for what has no name of its own. No name a client can send is accepted for one of these:
# an object that claims such a tag is then refused by the schema behind it.
_OBJECT = MARK * 2 + "object"
_SHAPES: dict[Any, str] = {
    bool: MARK * 2 + "boolean",
    int: MARK * 2 + "number",
    float: MARK * 2 + "number",
    str: MARK * 2 + "string",
    list: MARK * 2 + "array",
    dict: _OBJECT,
}


def refused(refuse: Refuse) -> PydanticCustomError:
    """Make the error that a validator raises where pydantic has no type for it."""
    return PydanticCustomError(REFUSED, REFUSED, {"refuse": refuse})


def exactly_one(*names: str) -> AfterValidator:
    """Demand that an object holds exactly one of these fields; null counts as absent."""

    def check(value: Any) -> Any:
        given = sum(value.get(name) is not None for name in names)
        if given != 1:
            raise refused(lambda _, path: refusals.not_exactly_one(path, names, given))
        return value

    return AfterValidator(check)


class OneOf:
    """Choose one member of a union; on a single type, only name it in errors.

    Objects are told apart by the strings that their field `key` may hold, everything else by JSON type.
    """

    def __init__(
        self,
        noun: str = "an object",
        *,
        key: str = "type",
        listed: Sequence[str] = (),
        is_blamed_whole: bool = False,
        noun_for_null: str | None = None,
    ) -> None:
        """Describe the errors.

        Args:
            noun: what was expected, where the JSON type is wrong.
            key: the field that names an object's variant.
            listed: the names that an error lists, if not those of the members in their order.
            is_blamed_whole: whether a wrong name is reported at the object and not at its field.
            noun_for_null: what was expected, where null was sent.
        """
        self.noun = noun
        self.key = key
        self.listed = listed
        self.is_blamed_whole = is_blamed_whole
        self.noun_for_null = noun_for_null or noun

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build a tagged union, so that errors come from the chosen member alone."""
        choices: dict[Hashable, CoreSchema] = {}
        if get_origin(source) in {Union, UnionType}:
            for member in get_args(source):
                choices |= dict.fromkeys(self._tags(member), handler.generate_schema(member))
        else:
            choices |= dict.fromkeys(self._tags(source), handler(source))
        return core_schema.tagged_union_schema(
            choices,
            _shape if _OBJECT in choices else self.tag,
            custom_error_type=REFUSED,
            custom_error_message=REFUSED,
            custom_error_context={"refuse": partial(self.refuse, names=self._names(choices))},  # pyright: ignore[reportArgumentType]  # any value is kept
        )

    def tag(self, value: Any) -> str | None:
        """Say which member a value is to be validated as."""
        if not isinstance(value, dict):
            return _shape(value)
        name = value.get(self.key)
        return MARK + name if isinstance(name, str) else None

    def refuse(self, value: Any, path: str, *, names: Sequence[str]) -> InvalidRequest:
        """Word the error for a value that is none of the members."""
        if not isinstance(value, dict) or not names:
            return refusals.wrong_type(path, self.noun_for_null if value is None else self.noun, value)
        name = value.get(self.key)
        if self.is_blamed_whole:
            return refusals.wrong_value(path, name if isinstance(name, str) else "", names)
        if self.key not in value:
            return refusals.missing(f"{path}.{self.key}")
        if isinstance(name, str):
            return refusals.wrong_value(f"{path}.{self.key}", name, names)
        return refusals.wrong_type(f"{path}.{self.key}", refusals.alternatives(names), name)

    def _tags(self, member: Any) -> list[str]:
        member = _bare(member)
        if get_origin(member) is Literal:
            return [_SHAPES[str]]
        if get_origin(member) in {Union, UnionType}:  # a union within this one, with a key of its own
            return self._tags(get_args(member)[0])
        if is_typeddict(member):
            name = _bare(get_type_hints(member, include_extras=True).get(self.key))
            return [MARK + literal for literal in get_args(name) if literal] or [_OBJECT]
        return [_SHAPES[get_origin(member) or member]]

    def _names(self, choices: dict[Hashable, CoreSchema]) -> Sequence[str]:
        return self.listed or [
            tag.removeprefix(MARK) for tag in map(str, choices) if not tag.startswith(MARK * 2)
        ]


def _shape(value: Any) -> str | None:
    return _SHAPES.get(type(value))


def _bare(hint: Any) -> Any:
    """Take away what wraps a type: `Required[Annotated[T, ...] | None]` gives T."""
    arguments = get_args(hint)
    is_optional = len(arguments) == 2 and arguments[1] is type(None)
    if is_optional or get_origin(hint) in {Required, NotRequired, Annotated}:
        return _bare(arguments[0])
    return hint
