"""A valid instance of a JSON schema, always the same one for the same words.

Knows the keywords that applications and tools use, `$ref` with recursion included. A schema it cannot
satisfy is refused in words (`Unsatisfiable`) rather than answered with something invalid. Where a schema
lets branches of a `oneOf` overlap, the first is taken, whether or not another would fit too.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from math import inf
from typing import Any
from urllib.parse import unquote

from app.providers import offline_keywords as keywords
from app.providers.offline_keywords import Unsatisfiable
from app.providers.offline_pattern import matching

MAX_VALUES = 20_000
"""Values in one instance, a value being ten characters of text too: a small schema can ask for billions."""
MAX_DEPTH = 64
"""Schemas within schemas; Python's stack ends at about ten times this."""

_UNSUPPORTED = frozenset(
    {"not", "if", "contains", "propertyNames", "dependentSchemas", "$dynamicRef", "$recursiveRef"}
)


def instance(schema: Any, words: str) -> Any:
    """A JSON value that fits `schema`; free text in it is `words`.

    Raises:
        Unsatisfiable: with a sentence for the caller.
    """
    try:
        return _Maker(schema, words).make(schema)
    except Unsatisfiable:
        raise
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise Unsatisfiable("The schema is malformed.") from error


class _Maker:
    """One walk through one schema: the references being followed and what is left of the bounds."""

    def __init__(self, root: Any, words: str) -> None:
        self.root = root
        self.words = words
        self.values_left = MAX_VALUES
        self.depth = 0
        self.following: list[str] = []
        # Greater than zero while further items of a set are made: each asks for another value.
        self.turn = 0

    def make(self, schema: Any) -> Any:
        """The instance of a schema at any place below the root."""
        self._spend(1)
        plain, refs = self._flatten(schema)
        with self._inside(refs):
            for key in ("anyOf", "oneOf"):
                if key in plain:
                    rest = {name: value for name, value in plain.items() if name != key}
                    return self._first([{"allOf": [rest, option]} for option in plain[key]], self.make)
            return self._single(plain)

    def _single(self, plain: dict[str, Any]) -> Any:
        """The instance of a schema without references and combinations."""
        unsupported = _UNSUPPORTED & plain.keys()
        if unsupported:
            raise Unsatisfiable(f"The keyword {min(unsupported)!r} is not supported.")
        if "const" in plain:
            return plain["const"]
        types = keywords.types(plain)
        if "enum" in plain:
            fitting = [
                value for value in plain["enum"] if "type" not in plain or keywords.is_any(value, types)
            ]
            return fitting[self.turn % len(fitting)] if fitting else self._first([], self.make)
        for value in [] if self.turn else keywords.presets(plain):
            if any(keywords.admits(plain, kind, value) for kind in types):
                return value
        # Null says the least, so it is the last resort of a union.
        return self._first(sorted(types, key="null".__eq__), lambda kind: self._typed(kind, plain))

    def _typed(self, kind: str, plain: dict[str, Any]) -> Any:
        match kind:
            case "object":
                return self._object(plain)
            case "array":
                return self._array(plain)
            case "string":
                return self._string(plain)
            case "number" | "integer":
                return keywords.number(plain, is_whole=kind == "integer", turn=self.turn)
            case "boolean":
                return self.turn % 2 == 0
            case "null":
                return None
            case _:
                raise Unsatisfiable(f"The type {kind!r} is not supported.")

    def _object(self, plain: dict[str, Any]) -> dict[str, Any]:
        properties: dict[str, Any] = plain.get("properties") or {}
        required: dict[str, None] = dict.fromkeys(plain.get("required") or ())
        others = plain.get("additionalProperties", True)
        spare = plain.get("maxProperties", inf) - len(required)
        made: dict[str, Any] = {}
        for name in properties | required:
            if name in required:
                made[name] = self.make(properties.get(name, others))
            elif spare > 0:
                # An optional property that has no instance, or would recurse, is left out.
                with suppress(Unsatisfiable):
                    made[name] = self.make(properties[name])
                    spare -= 1
        spare_names = (f"key{number}" for number in count())
        while len(made) < plain.get("minProperties", 0):
            made.setdefault(next(spare_names), self.make(others))
        return made

    def _array(self, plain: dict[str, Any]) -> list[Any]:
        items = plain.get("items", True)
        first: list[Any] = plain.get("prefixItems") or (items if isinstance(items, list) else [])
        least: int = plain.get("minItems", 0)
        wanted = max(least, len(first), "items" in plain)
        rest = True if isinstance(items, list) else items
        made: list[Any] = []
        is_set = plain.get("uniqueItems") is True
        for place in range(min(wanted, plain.get("maxItems", wanted))):
            with self._at_turn(place if is_set else self.turn), suppress(Unsatisfiable):
                # Every item of a set is compared with all before it.
                self._spend(place if is_set else 0)
                value = self.make(first[place] if place < len(first) else rest)
                made += [value] if not is_set or value not in made else []
            if len(made) == place:
                break
        if len(made) < least:
            raise Unsatisfiable(f"No array of {least} items could be made.")
        return made

    def _string(self, plain: dict[str, Any]) -> str:
        least, most = plain.get("minLength", 0), plain.get("maxLength")
        self._spend(least // 10)
        if "pattern" in plain:
            text = matching(plain["pattern"], min_length=least)
        elif plain.get("format") in keywords.FORMATS:
            text = keywords.FORMATS[plain["format"]]
        else:
            text = (f"{self.turn} {self.words}" if self.turn else self.words)[:most].ljust(least, ".")
        self._spend(len(text) // 10)
        if len(text) < least or (most is not None and len(text) > most):
            raise Unsatisfiable("No string of the demanded length could be made.")
        return text

    def _first(self, options: Iterable[Any], make: Callable[[Any], Any]) -> Any:
        """What the first option gives that gives anything."""
        reason: ValueError = Unsatisfiable("The schema allows no value.")
        for option in options:
            try:
                return make(option)
            except Unsatisfiable as error:
                reason = error
        raise reason

    def _flatten(self, schema: Any) -> tuple[dict[str, Any], list[str]]:
        """The schema with `$ref` and `allOf` merged into it, and the references that were followed."""
        plain: dict[str, Any] = {}
        refs: list[str] = []
        parts = [schema]
        while parts:
            part = parts.pop()
            if part is True:
                continue
            if not isinstance(part, Mapping):
                raise Unsatisfiable("The schema allows no value.")
            ref = part.get("$ref")
            if ref in self.following:
                raise Unsatisfiable(f"The schema {ref!r} never ends.")
            if ref is not None and ref not in refs:
                refs.append(ref)
                parts.append(self._target(ref))
            parts.extend(part.get("allOf") or ())
            keywords.merge(plain, part)
            self._spend(1)
        return plain, refs

    def _target(self, ref: str) -> Any:
        if not ref.startswith("#"):
            raise Unsatisfiable(f"The reference {ref!r} leads outside the schema.")
        target = self.root
        for step in ref[1:].split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, Sequence) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise Unsatisfiable(f"The reference {ref!r} leads nowhere.")
        return target

    def _spend(self, count: int) -> None:
        self.values_left -= count
        if self.values_left < 0:
            raise Unsatisfiable(f"The schema demands more than {MAX_VALUES} values.")

    @contextmanager
    def _inside(self, refs: Sequence[str]) -> Generator[None]:
        if self.depth >= MAX_DEPTH:
            raise Unsatisfiable(f"The schema is deeper than {MAX_DEPTH} levels.")
        self.depth += 1
        self.following += refs
        try:
            yield
        finally:
            self.depth -= 1
            del self.following[len(self.following) - len(refs) :]

    @contextmanager
    def _at_turn(self, turn: int) -> Generator[None]:
        before, self.turn = self.turn, turn
        try:
            yield
        finally:
            self.turn = before
