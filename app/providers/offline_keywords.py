"""The keywords of one JSON schema: which types and bounds they set, and how two schemas become one.

Walking into the schemas below is `offline_schema`'s business.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor, inf
from typing import Any


class Unsatisfiable(ValueError):
    """No instance can be made: the schema contradicts itself, never ends, or uses what is not supported."""


FORMATS = {
    "date-time": "2025-01-31T12:00:00Z",
    "date": "2025-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "iri": "https://example.com/",
    "uri-reference": "/path",
    "iri-reference": "/path",
    "uri-template": "https://example.com/{name}",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "json-pointer": "/name",
    "relative-json-pointer": "0",
    "regex": "^text$",
    "byte": "dGV4dA==",
}

# What a schema without `type` is about, told by its other keywords.
_TELLING = {
    "object": {"properties", "required", "additionalProperties", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "uniqueItems"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}

_PYTHON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
    "null": type(None),
}


def types(plain: Mapping[str, Any]) -> list[str]:
    """The types a schema allows, or the one that its keywords speak of; text where they do not."""
    stated = plain.get("type")
    if stated is None:
        stated = next((kind for kind, keys in _TELLING.items() if keys & plain.keys()), "string")
    types = [stated] if isinstance(stated, str) else list(stated)
    return [*types, "null"] if plain.get("nullable") is True else types


def is_any(value: Any, types: Iterable[str]) -> bool:
    """Whether a value has one of the types. A boolean is no number, though Python says so."""
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _PYTHON_TYPES.get(kind, ())) for kind in types)


def presets(plain: Mapping[str, Any]) -> list[Any]:
    """What the schema's author wrote as an example of a plain value."""
    examples = plain.get("examples")
    found = [*(examples if isinstance(examples, list) else ()), plain.get("example"), plain.get("default")]
    return [value for value in found if isinstance(value, str | int | float)]


def admits(plain: Mapping[str, Any], kind: str, value: Any) -> bool:
    """Whether a preset surely fits. Authors err, so one that would need a closer look is passed over."""
    if not is_any(value, [kind]) or {"pattern", "format", "multipleOf"} & plain.keys():
        return False
    if kind == "string":
        return plain.get("minLength", 0) <= len(value) <= plain.get("maxLength", inf)
    return kind == "boolean" or _is_within(plain, value)


def _is_within(plain: Mapping[str, Any], value: float) -> bool:
    lowest, over = plain.get("minimum", -inf), plain.get("exclusiveMinimum", False)
    highest, under = plain.get("maximum", inf), plain.get("exclusiveMaximum", False)
    # In the older drafts the exclusive bounds are booleans about the inclusive ones.
    if isinstance(over, bool):
        over = lowest if over else -inf
    if isinstance(under, bool):
        under = highest if under else inf
    return lowest <= value <= highest and over < value < under


def number(plain: Mapping[str, Any], *, is_whole: bool, turn: int) -> float:
    """The `turn`-th number that fits, preferably from 1 upwards."""
    step = Fraction(str(plain.get("multipleOf") or 1))
    step = Fraction(step.numerator) if is_whole else step
    bounds = [
        Fraction(str(plain[key]))
        for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        if key in plain and not isinstance(plain[key], bool)
    ]
    aligned = [round_(bound / step) * step for bound in bounds for round_ in (ceil, floor)]
    tries = [Fraction(1), *(value + side * step for value in aligned for side in (0, 1, -1))]
    if not is_whole and "multipleOf" not in plain:
        tries += [*bounds, sum(bounds, Fraction(0)) / max(len(bounds), 1)]
    for value in (one + shift * turn * step for one in tries for shift in (1, -1)):
        # Compared as it will be written: a fraction may turn into a bound when it becomes a float.
        written = int(value) if value.denominator == 1 else float(value)
        if _is_within(plain, written) and ("multipleOf" not in plain or value % step == 0):
            return written
    raise Unsatisfiable("No number fits the bounds.")


def merge(plain: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add what `part` demands to `plain`, so that both hold."""
    for key, value in part.items():
        if key in {"$ref", "allOf", "$defs", "definitions"}:
            continue
        if key not in plain:
            plain[key] = value
        elif key in {"anyOf", "oneOf"}:
            plain.setdefault("allOf", []).append({key: value})
        else:
            plain[key] = _BOTH.get(key, _latter)(plain[key], value)


def _latter(_: Any, value: Any) -> Any:
    return value


def _both_schemas(one: Any, other: Any) -> Any:
    return one if one == other else {"allOf": [one, other]}


def _both_properties(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: _both_schemas(one[name], other[name]) for name in one if name in other}
    return {**one, **other, **shared}


def _both_types(one: Any, other: Any) -> list[str]:
    ones, others = types({"type": one}), types({"type": other})
    narrow = {"integer"} if "integer" in (*ones, *others) and "number" in (*ones, *others) else set[str]()
    return [kind for kind in (*ones, *narrow) if kind in others or kind in narrow]


def _both_lists(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [value for value in one if value in other]


_BOTH: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    **dict.fromkeys(("items", "additionalProperties"), _both_schemas),
    "properties": _both_properties,
    "required": lambda one, other: [*one, *other],
    "type": _both_types,
    "enum": _both_lists,
}
"""How two demands of one keyword become one; for others, as `title`, the latter stands."""
