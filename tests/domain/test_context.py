from app.domain.context import Context


def test_a_context_is_the_inside_of_an_array_and_skips_empty_blobs() -> None:
    assert Context("m", (b'{"a":1}', b"", b'{"b":2},{"c":3}')).joined() == b'{"a":1},{"b":2},{"c":3}'
