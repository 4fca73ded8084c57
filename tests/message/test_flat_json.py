"""Flat JSON is JSON, whatever the values hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.flat_json import write_array, write_object

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@given(st.dictionaries(st.text(), values))
def test_objects(fields):
    """A reader finds what was written; the text is ASCII and one line."""
    text = write_object(fields)
    assert json.loads(text) == fields
    assert text.isascii() and "\n" not in text


@given(st.lists(values))
def test_arrays(items):
    """Likewise."""
    assert json.loads(write_array(items)) == items


def test_numbers_that_are_none():
    """JSON has no infinity; what has no place in it is refused, not written."""
    with pytest.raises(ValueError, match="JSON compliant"):
        write_object({"x": float("inf")})


def test_values_of_others():
    """Whoever knows how to write them is asked."""
    assert write_object({"a": {1}, "b": 2}, encode=lambda value: '"?"') == '{"a":"?","b":2}'
