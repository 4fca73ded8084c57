"""xtext: what is valid, and that decoding undoes encoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.xtext import decode, embed, encode, is_xtext


@given(st.text(st.characters(max_codepoint=0x7F), max_size=50))
def test_decoding_undoes_encoding(text):
    """For all of ASCII, controls included."""
    assert is_xtext(encode(text))
    assert decode(encode(text)) == text


@pytest.mark.parametrize(
    ("text", "valid"),
    [("", True), ("abc!~", True), ("a+2Bb", True), ("+00", True), ("a+2bb", False), ("a+2", False), ("a+", False),
     ("a=b", False), ("a b", False), ("ä", False), ("a\n", False), ("a\x7f", False),
     ("+2B" * 5000, True), ("+2B" * 5000 + "+", False)],
)  # fmt: skip
def test_what_is_xtext(text, valid):
    """RFC 3461 4: printable ASCII but + and =, or + with two upper-case hex digits."""
    assert is_xtext(text) is valid


def test_an_address_as_orcpt_carries_it():
    """Plus and equals are encoded, an @ is not."""
    assert encode("a+b=c@x.test") == "a+2Bb+3Dc@x.test"
    assert decode("a+2Bb@x.test") == "a+b@x.test"


def test_unitext_is_ascii():
    """RFC 6533 3: what is not graphic ASCII, and what xtext would take for its own, by number."""
    assert embed("ä +=\\b@x.test") == "\\x{E4}\\x{20}\\x{2B}\\x{3D}\\x{5C}b@x.test"
    assert embed("\U0001f600\\x{2B}", "") == "\\x{1F600}\\x{2B}"
