"""What lists, statistics and lineage are asked: what is wrong is refused by name, and nothing is a 500."""

from urllib.parse import urlencode

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api import bodies
from tests.api.asking import CREATE, MISSING, create, invalid, refusal
from tests.api.conversing import NOBODY
from tests.api.listing import STATS


class TestRefusals:
    @pytest.mark.parametrize(
        ("params", "code", "param"),
        [
            ({"status": "done"}, "invalid_value", "status"),
            ({"created_after": "yesterday"}, "invalid_value", "created_after"),
            ({"created_after": "-1"}, "invalid_value", "created_after"),
            ({"created_after": ""}, "invalid_value", "created_after"),
            ({"created_after": "NaN"}, "invalid_value", "created_after"),
            ({"created_after": "9" * 400}, "invalid_value", "created_after"),
            ({"created_after": "٣"}, "invalid_value", "created_after"),
            ({"created_before": "0001-01-01T00:00:00+14:00"}, "invalid_value", "created_before"),
            ({"created_before": "9999-12-31T23:59:59-14:00"}, "invalid_value", "created_before"),
            ({"created_before": "2026-02-30"}, "invalid_value", "created_before"),
            ({"conversation": "resp_1"}, "invalid_value", "conversation"),
            ({"conversation": "conv_1"}, "invalid_value", "conversation"),
            ({"previous_response_id": "conv_1"}, "invalid_value", "previous_response_id"),
            ({"previous_response_id": "resp_" + "Z" * 32}, "invalid_value", "previous_response_id"),
            ({"root": "x"}, "invalid_value", "root"),
            ({"root": "conv_x"}, "invalid_value", "root"),
            ({"root": ""}, "invalid_value", "root"),
            ({"background": "maybe"}, "invalid_type", "background"),
            ({"has_attempts_over": "-1"}, "integer_below_min_value", "has_attempts_over"),
            ({"has_attempts_over": "9" * 400}, None, "has_attempts_over"),
            ({"has_attempts_over": "1e3"}, "invalid_type", "has_attempts_over"),
            ({"q": ""}, "invalid_value", "q"),
            ({"q": "x" * 1001}, "invalid_value", "q"),
            ({"user": "x" * 513}, "invalid_value", "user"),
            ({"model": "x" * 513}, "invalid_value", "model"),
            ({"tool": "x" * 513}, "invalid_value", "tool"),
            ({"include": "everything"}, "invalid_value", "include[0]"),
            ({"include": "output,everything"}, "invalid_value", "include[0]"),
            ({"include": ""}, "invalid_value", "include[0]"),
            ({"limit": "0"}, "integer_below_min_value", "limit"),
            ({"limit": "101"}, "integer_above_max_value", "limit"),
            ({"order": "up"}, "invalid_value", "order"),
            ({"after": "conv_1"}, "invalid_value", "after"),
            ({"after": "resp_1"}, "invalid_value", "after"),
            ({"statuz": "x"}, "unknown_parameter", "statuz"),
            ({"metadata": "x"}, "unknown_parameter", "metadata"),
            ({"metadata.a": "x"}, "unknown_parameter", "metadata.a"),
            ({"metadata[a": "x"}, "unknown_parameter", "metadata[a"),
            ({f"metadata[{n}]": "x" for n in range(17)}, "object_above_max_properties", "metadata"),
            ({"metadata[a]": "\0"}, "invalid_value", "metadata[a]"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_a_wrong_value_is_named(
        self, api: httpx2.Client, params: dict[str, str], code: str | None, param: str
    ) -> None:
        told = refusal(api.get(CREATE, params=params))
        assert (told.status, told.param, told.type) == (400, param, "invalid_request_error")
        assert code in {None, told.code}

    def test_a_slip_in_a_name_is_pointed_at(self, api: httpx2.Client) -> None:
        told = refusal(api.get(CREATE, params={"statuz": "x"}))
        assert told == invalid(
            "Unknown parameter: 'statuz'. Did you mean 'status'?", code="unknown_parameter", param="statuz"
        )

    @pytest.mark.parametrize(
        "name", ["model", "user", "status", "q", "limit", "after", "metadata[a]", "created_after"]
    )
    def test_two_values_of_one_filter_are_refused(self, api: httpx2.Client, name: str) -> None:
        pairs = [(name, "1"), (name, "2")]
        assert refusal(api.get(f"{CREATE}?{urlencode(pairs)}")).status == 400
        told = refusal(api.get(f"{CREATE}?{urlencode([('user', 'a'), ('user', 'b')])}"))
        assert told == invalid("Invalid 'user': it was given twice, with different values.", param="user")

    @pytest.mark.parametrize(
        "params",
        [{"group_by": "tool"}, {"created_after": "x"}, {"created_before": "x"}, {"status": "x"}, {"metadata[a]": "x"}, {"tool": "x"}, {"user": "x" * 513}],
    )  # fmt: skip
    def test_of_statistics_too(self, api: httpx2.Client, params: dict[str, str]) -> None:
        assert refusal(api.get(STATS, params=params)).status == 400

    @pytest.mark.parametrize(
        "params",
        [{"limit": "0"}, {"ancestors_above": "-1"}, {"ancestors_above": "x"}, {"children_after": "x"}, {"siblings_after": "resp_1"}, {"children_after": NOBODY}],
    )  # fmt: skip
    def test_and_of_lineage(self, api: httpx2.Client, params: dict[str, str]) -> None:
        told = refusal(api.get(f"{CREATE}/{create(api)['id']}/lineage", params=params))
        assert (told.status, told.param) == (400, next(iter(params)))


QUESTIONS = ("'", '"', "\0", "\\", "&|!", "(((", "or", "-", "-or-", "a:*", "<->", "=1", "\U0001f600", "x" * 1000, "\U0001d400" * 1000, "a " * 500, '"' * 1000, "\u202e\u200b", "%00%ff")  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda text: ascii(text)[:20])
def test_any_question_is_answered(api: httpx2.Client, question: str) -> None:
    for params in ({"q": question}, {"q": question, "user": question[:500], "model": question[:500]}):
        assert api.get(CREATE, params=params).status_code == 200


NAMES = ("model", "status", "created_after", "created_before", "conversation", "previous_response_id", "root", "user", "safety_identifier", "metadata[a]", "metadata[\0]", "background", "error_code", "tool", "has_attempts_over", "q", "include", "include[]", "limit", "order", "after", "group_by", "ancestors_above", "children_after", "siblings_after")  # fmt: skip
TIMES = st.datetimes().map(str) | st.datetimes(timezones=st.timezones()).map(str) | st.dates().map(str)
VALUES = (
    bodies.TEXT
    | bodies.IDS
    | TIMES
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(QUESTIONS)
)


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(path=st.sampled_from((CREATE, STATS, f"{CREATE}/{MISSING}/lineage")), query=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=3))  # fmt: skip
def test_any_query_is_answered_or_refused(
    api: httpx2.Client, path: str, query: list[tuple[str, str]]
) -> None:
    answer = api.get(f"{path}?{urlencode(query, errors='surrogatepass')}")
    assert answer.status_code in {200, 400, 404}, answer.text
    if answer.status_code != 200:
        assert refusal(answer).type == "invalid_request_error"


def test_a_ruled_line_is_no_more_than_one_negation(api: httpx2.Client) -> None:
    """Postgres has no room for a thousand of them, one within the other."""
    for words in ("-" * 999 + "a", "a " + "-" * 60 + " b"):
        assert api.get(CREATE, params={"q": words}).status_code == 200
