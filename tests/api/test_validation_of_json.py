"""What is not JSON, or none that could be kept."""

import pytest

from app.api.validation import parse_create
from app.errors import InvalidRequest
from tests.api.validating import accept, refuse, user

INVALID_JSON = (
    "Invalid body: failed to parse JSON value. Please check the value to ensure it is valid JSON. "
    "(Common errors include trailing commas, missing closing brackets, missing quotation marks, etc.)"
)


def read_error(body: bytes) -> tuple[str | None, str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_create(body, default_model=None)
    return caught.value.code, caught.value.param, caught.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model":"m",}', b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"\xef\xbb\xbf{}"],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert read_error(body) == ("invalid_json", None, INVALID_JSON)


@pytest.mark.parametrize(
    ("body", "noun"), [(b"[]", "an array"), (b'"x"', "a string"), (b"null", "an object")]
)
def test_a_body_is_an_object(body: bytes, noun: str) -> None:
    message = f"Invalid type for the body: expected an object, but got {noun} instead."
    assert read_error(body) == ("invalid_type", None, message)


@pytest.mark.parametrize("depth", [201, 900, 5000])
def test_json_too_deep_to_be_written_again_is_refused(depth: int) -> None:
    body = b'{"model":"m","input":"hi","metadata":' + b"[" * depth + b"]" * depth + b"}"
    code, param, message = read_error(body)
    assert (code, param) == ("invalid_json", None)
    assert "nesting too deep" in message


def test_wide_json_is_not_deep() -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}] * 300
    assert accept({"input": items})["input"] == items


def test_an_integer_beyond_64_bits_is_a_decimal() -> None:
    body = b'{"model":"m","input":"hi","max_output_tokens":18446744073709551616}'
    assert read_error(body)[:2] == ("invalid_type", "max_output_tokens")


def test_a_long_value_is_not_sent_back_whole() -> None:
    for fragment in ({"truncation": "x" * 10_000}, {"y" * 10_000: 1}, user(**{"z" * 10_000: 1})):
        code, param, message = refuse(fragment)
        assert code
        assert len(param or "") + len(message) < 300
