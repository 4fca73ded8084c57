"""Shares: who is one client, and that none of them takes what is left for the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.shares import Shares, site_of


@pytest.mark.parametrize(
    ("address", "site"),
    [
        (None, "unix"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_who_is_one_client(address, site):
    """An IPv4 address, or a network of 64 bits."""
    assert site_of(address) == site


def test_who_wants_all_gets_half():
    """Two get a third each; and whoever has none, has one."""
    shares = Shares(90)
    assert sum(shares.enter("a") for _ in range(200)) == 45
    assert sum(shares.enter("b") for _ in range(200)) == 23
    for _ in range(15):
        shares.leave("a")
    assert sum(shares.enter("c") for _ in range(200)) == 19
    assert not shares.enter("d", 20)
    assert shares.enter("d")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 5), st.booleans()), max_size=200))
def test_what_is_taken_is_never_more_than_there_is(moves):
    """Whoever comes and goes; all given back, all is there again; and a newcomer gets in while anything is free."""
    shares, taken = Shares(20), []
    for site, count, enters in moves:
        if enters and shares.enter(site, count):
            taken.append((site, count))
        elif taken and not enters:
            shares.leave(*taken.pop(0))
        total = sum(number for _, number in taken)
        assert total <= 20
        assert shares.enter("new") == (total < 20)
        if total < 20:
            shares.leave("new")
    for one in taken:
        shares.leave(*one)
    assert sum(shares.enter("a") for _ in range(50)) == 10
