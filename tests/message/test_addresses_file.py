"""Files with one address a line: members of lists, recipients that exist."""

import pytest

from requiretls_mta.message.addresses_file import AddressesError, read_addresses


def test_addresses_each_once(tmp_path):
    """In order, whatever the line ends; blank lines and comments count for nothing."""
    file = tmp_path / "members"
    file.write_text("# who\r\n\r\nann@example.org\n  Bob@Example.ORG  \nANN@example.org\njürgen@bücher.example")
    assert [str(a) for a in read_addresses(file, most=3)] == [
        "ann@example.org",
        "Bob@Example.ORG",
        "jürgen@bücher.example",
    ]


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"a@b.example\nann\n", 'members, line 2: found "ann"; one address a line: the address has no domain'),
        (b"\xff@b.example\n", "line 1: .*it is not UTF-8"),
        (b"a@b.example c@d.example\n", "line 1: found"),
        (b"a@b.example\nb@b.example\nc@b.example\nd@b.example\n", "line 4: more than 3 addresses"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, octets, says):
    """File, line, what was found, what is allowed."""
    file = tmp_path / "members"
    file.write_bytes(octets)
    with pytest.raises(AddressesError, match=says):
        read_addresses(file, most=3)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    """Which names it."""
    with pytest.raises(OSError, match="members"):
        read_addresses(tmp_path / "members", most=3)
