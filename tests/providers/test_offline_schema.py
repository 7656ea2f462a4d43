"""Every instance that the offline model makes fits its schema, as an independent validator sees it."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from app.providers.offline_keywords import Unsatisfiable
from app.providers.offline_pattern import matching
from app.providers.offline_schema import instance

WORDS = "What is the weather in Paris?"


def fits(schema: Any) -> Any:
    made = instance(schema, WORDS)
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(made)
    return made


class Address(BaseModel):
    street: str
    number: int = Field(gt=0, multiple_of=2)
    tags: set[str] = Field(min_length=2)


class Person(BaseModel):
    name: str = Field(min_length=3, max_length=8)
    born: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    addresses: list[Address] = Field(min_length=1)
    friends: list["Person"]
    boss: "Person | None"


SCHEMAS: dict[str, Any] = {
    "anything": True,
    "empty": {},
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "one of several types": {"type": ["null", "integer"]},
    "untyped object": {"properties": {"a": {"type": "integer"}}},
    "const": {"const": {"a": [1]}},
    "enum": {"enum": ["celsius", "fahrenheit"]},
    "enum of a type": {"type": "integer", "enum": ["no", 3]},
    "example": {"type": "string", "examples": ["Paris"]},
    "default that does not fit": {"type": "string", "default": "", "minLength": 3},
    "default of another type": {"type": "integer", "default": None},
    "default boolean": {"type": "boolean", "default": False},
    "default number": {"type": "number", "default": 2.5, "maximum": 3},
    "boolean of a union": {"type": ["boolean", "string"], "enum": ["no", True]},
    "nullable": {"type": "string", "nullable": True},
    "either of both types": {"allOf": [{"type": ["string", "integer"]}, {"type": ["number", "null"]}]},
    "reference into a list": {"allOf": [{"type": "integer"}], "$ref": "#/allOf/0"},
    "short string": {"type": "string", "maxLength": 4},
    "long string": {"type": "string", "minLength": 300},
    "minimum": {"type": "integer", "minimum": 18},
    "maximum": {"type": "integer", "maximum": -3},
    "exclusive integers": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    "exclusive numbers": {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 15},
    "multiple of a fraction": {"type": "number", "multipleOf": 0.25, "minimum": 0.3, "maximum": 0.6},
    "fraction of whole numbers": {"type": "integer", "multipleOf": 2.5, "minimum": 1},
    "items": {"type": "array", "items": {"type": "integer"}},
    "several items": {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    "no items": {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
    "different items": {"type": "array", "items": {"type": "string"}, "minItems": 4, "uniqueItems": True},
    "different choices": {
        "type": "array",
        "items": {"enum": ["a", "b", "c"]},
        "minItems": 3,
        "uniqueItems": True,
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    "optional properties": {"type": "object", "properties": {"a": {"type": "integer"}, "b": False}},
    "required of unknown shape": {"type": "object", "required": ["a"]},
    "required by additional properties": {
        "type": "object",
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
    },
    "at least": {"type": "object", "minProperties": 3, "properties": {"key0": {"const": 1}}},
    "at most": {
        "type": "object",
        "properties": {"a": {}, "b": {}, "c": {}},
        "required": ["c"],
        "maxProperties": 2,
    },
    "closed": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    "any of": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "null"}]},
    "any of, first impossible": {"anyOf": [False, {"type": "integer"}]},
    "one of with siblings": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "required": ["id"],
        "oneOf": [
            {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            {"properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ],
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 5}, "b": {"type": "string"}}, "required": ["b"]},
        ]
    },
    "all of numbers": {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "minimum": 9}]},
    "all of any of": {
        "allOf": [
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        ]
    },
    "reference": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
    "reference with siblings": {
        "$ref": "#/$defs/a",
        "maxLength": 3,
        "$defs": {"a": {"type": "string", "minLength": 2}},
    },
    "list of itself": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    },
    "linked list": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
    },
    "optional recursion": {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "name": {"type": "string"}},
        "required": ["name"],
    },
    "mutual recursion": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
            "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}},
        },
    },
    "pydantic": Person.model_json_schema(),
    **{
        f"format {name}": {"type": "string", "format": name}
        for name in (
            "date-time",
            "date",
            "time",
            "email",
            "uri",
            "uuid",
            "ipv4",
            "ipv6",
            "hostname",
            "unheard-of",
        )
    },
}


@pytest.mark.parametrize("schema", [pytest.param(schema, id=name) for name, schema in SCHEMAS.items()])
def test_the_instance_fits(schema: Any) -> None:
    assert fits(schema) == instance(schema, WORDS)


def test_free_text_takes_the_given_words() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}

    assert instance(schema, "Paris") == {"city": "Paris"}


def test_optional_properties_are_filled_too() -> None:
    assert set(fits(Address.model_json_schema())) == {"street", "number", "tags"}


def test_an_instance_is_read_back_by_the_model_that_the_schema_came_from() -> None:
    person = Person.model_validate(fits(SCHEMAS["pydantic"]))

    assert person.boss is None
    assert person.friends == []


def test_exclusive_bounds_of_older_drafts_are_kept() -> None:
    low, high = {"minimum": 1, "exclusiveMinimum": True}, {"maximum": 3, "exclusiveMaximum": True}

    assert instance({"type": "integer", **low, **high}, WORDS) == 2


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "banana"},
        {"type": []},
        {"enum": []},
        {"not": {}},
        {"if": {"type": "string"}, "then": False},
        {"type": "array", "contains": {"const": 7}},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "pattern": "(?=a)b"},
        *(
            {"type": "string", "pattern": pattern}
            for pattern in (
                "(a",
                "a)",
                "*a",
                "[a",
                "a\\",
                r"(a)\1",
                r"\u00zz",
                r"[^\S\s]",
                "(" * 99,
                "(?<name",
            )
        ),
        {"type": "array", "items": {"enum": ["a"]}, "minItems": 2, "uniqueItems": True},
        {"type": "array", "items": {}, "minItems": 2, "maxItems": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/missing"},
        {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "integer", "minimum": "three"},
        {"properties": 3},
        {"anyOf": 3},
        {"type": "string", "pattern": r"\ud800"},
        {"type": "string", "pattern": r"[\uD800-\uDFFF]"},
    ],
    ids=str,
)
def test_a_schema_without_an_instance_is_refused_in_a_sentence(schema: Any) -> None:
    with pytest.raises(Unsatisfiable) as refusal:
        instance(schema, WORDS)

    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "a{1000000000}"},
        {"type": "string", "pattern": "((a{999}){999}){999}"},
        {"type": "array", "items": {}, "minItems": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9, "uniqueItems": True},
        {"type": "object", "minProperties": 10**9},
        {
            "$ref": "#/$defs/n0",
            "$defs": {
                **{
                    f"n{n}": {"type": "array", "items": {"$ref": f"#/$defs/n{n + 1}"}, "minItems": 9}
                    for n in range(20)
                },
                "n20": {"type": "integer"},
            },
        },
        {
            "$ref": "#/$defs/n0",
            "$defs": {f"n{n}": {"items": {"$ref": f"#/$defs/n{n + 1}"}, "minItems": 1} for n in range(500)},
        },
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_a_small_schema_cannot_ask_for_a_huge_instance(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        instance(schema, WORDS)


@pytest.mark.parametrize(
    "pattern",
    [
        r"",
        r"^[A-Z]{3}-\d{4}$",
        r"^\+?[0-9]{10,15}$",
        r"^[^\s@]+@[^\s@]+\.[^\s@]+$",
        r"^(?:red|green|blue)$",
        r"^(?<year>\d{4})-(?P<month>0[1-9]|1[0-2])$",
        r"^#[0-9a-fA-F]{6}$",
        r"\bword\b",
        r"^[\w.-]+$",
        r"^[]a]$",
        r"^[^a-z0-9]$",
        r"^\x41é\t\.$",
        r"^a*?b+?c??$",
        r"^{not a quantifier}$",
        r"^a{2}b{2,}c{0,3}$",
        r"^.*$",
        r"^([a-z]+(-[a-z]+)*)$",
    ],
)
def test_a_string_matches_its_pattern(pattern: str) -> None:
    # Python spells a named group with a `P`, JSON schemas mostly do not.
    assert re.search(pattern.replace("(?<", "(?P<"), matching(pattern))


@pytest.mark.parametrize(
    ("pattern", "length"), [("^[a-z]+$", 17), ("^[a-z]+-[a-z]+$", 4), ("^(ab)*$", 6), ("^x(a*)y$", 9)]
)
def test_a_pattern_stretches_to_the_least_length(pattern: str, length: int) -> None:
    made = fits({"type": "string", "pattern": pattern, "minLength": length, "maxLength": length})

    assert len(made) == length


LEAVES = st.one_of(
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-50, 50),
        st.integers(0, 9),
    ),
    st.builds(
        lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
        st.integers(0, 40),
        st.integers(0, 9),
    ),
    st.builds(
        lambda step, low: {"type": "integer", "multipleOf": step, "minimum": low},
        st.integers(1, 9),
        st.integers(-50, 50),
    ),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.floats(-1e6, 1e6)),
    st.builds(lambda values: {"enum": values}, st.lists(st.integers() | st.text(), min_size=1, unique=True)),
    st.sampled_from(
        [{}, True, {"type": "boolean"}, {"type": ["string", "null"]}, {"type": "object"}, {"type": "array"}]
    ),
)
NAMES = st.sampled_from(["a", "b", "c", "key0"])
SCHEMAS_OF_ANY_DEPTH = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least},
            inner,
            st.integers(0, 3),
        ),
        st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.dictionaries(NAMES, inner),
            st.lists(NAMES, unique=True),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"allOf": [part, {"title": "the same"}]}, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS_OF_ANY_DEPTH)
def test_any_satisfiable_schema_gets_an_instance_that_fits(schema: Any) -> None:
    fits(schema)
