"""Rules that no linter knows, checked on the syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(path for folder in ("app", "workers") for path in (ROOT / folder).rglob("*.py"))
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base_service"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_modules_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 450
    assert ast.get_docstring(ast.parse(text)), "a module says what belongs in it"
    assert path.stem not in VAGUE


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_functions_fit_on_a_screen(path: Path) -> None:
    """What they do: the parameters of a route or a command, each with its description, are a list."""
    long = [f.name for f in functions(path) if (f.end_lineno or 0) - f.body[0].lineno + 2 > 45]
    assert not long


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text()
    for word in ("TODO", "FIXME", "XXX", "NotImplementedError", "pragma: no cover"):
        assert word not in text


def test_status_is_written_in_one_file() -> None:
    """Law L3: one module of the store puts a status into a row."""
    writers = [
        name(path)
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute | ast.Name)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        in {"values", "_insert"}
        and any(keyword.arg == "status" for keyword in node.keywords)
    ]
    assert set(writers) <= {"app/store/lifecycle.py"}


def test_no_table_has_relationships() -> None:
    """Nothing lazy can escape a transaction."""
    assert not [name(path) for path in PRODUCT if "relationship(" in path.read_text()]


STORE = [path for path in PRODUCT if path.parent.name == "store"]
TRANSACTIONS = {"Tx", "ReadTx", "SystemTx"}


@pytest.mark.parametrize("path", STORE, ids=name)
def test_every_public_coroutine_of_the_store_takes_a_transaction_first(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
            first = node.args.args[0]
            assert isinstance(first.annotation, ast.Name)
            assert first.annotation.id in TRANSACTIONS, f"{node.name}({first.arg})"
