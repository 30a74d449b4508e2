"""Form-encoded parameters: any text is either understood or refused, never a crash."""

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import parameters
from sandbox.errors import Refused
from sandbox.forms import checked, decode

names = st.from_regex(r"[a-z_\[\]0-9]{0,30}", fullmatch=True) | st.sampled_from(
    [
        "metadata[a]",
        "metadata",
        "expand[]",
        "expand[0]",
        "line_items[0][quantity]",
        "line_items[x]",
        "mode",
        "created[gt]",
    ]
)
values = st.text(max_size=10) | st.sampled_from(["1", "true", "payment", "", "usd"])


@pytest.mark.parametrize(
    ("encoded", "params"),
    [
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("a[0][b]=1&a[1][b]=2", {"a": {"0": {"b": "1"}, "1": {"b": "2"}}}),
        ("a[]=x&a[]=y", {"a": {"0": "x", "1": "y"}}),
        ("a%5Bb%5D=%26", {"a": {"b": "&"}}),
        ("a=", {"a": ""}),
        ("", {}),
    ],
)
def test_brackets_nest(encoded: str, params: object) -> None:
    assert decode(encoded) == params


@given(st.lists(st.tuples(names, values), max_size=6))
def test_anything_is_understood_or_refused(fields: list[tuple[str, str]]) -> None:
    encoded = "&".join(f"{quote(name, safe='[]')}={quote(value)}" for name, value in fields)
    for spec in (parameters.CHECKOUT, parameters.PAYMENT_INTENT, parameters.OF_PAYMENT):
        with suppress(Refused):
            checked(decode(encoded), spec)
