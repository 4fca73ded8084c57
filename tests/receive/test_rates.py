"""Buckets of tokens: how many pass in which time, whoever asks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from requiretls_mta.receive import rates
from requiretls_mta.receive.rates import Rate, Rates

THREE = Rate(3, 60.0, "3/1m")


def taken(buckets, times, whose="anna", rate=THREE):
    return [buckets.take("messages", whose, rate) for _ in range(times)]


def test_all_at_once_and_then_one_by_one():
    """Three in a minute: after them one every twenty seconds; who waits a minute has all three again."""
    clock = Clock()
    buckets = Rates(clock.seconds)
    assert taken(buckets, 4) == [True, True, True, False]
    clock.advance(19)
    assert taken(buckets, 1) == [False]
    clock.advance(1)
    assert taken(buckets, 2) == [True, False]
    clock.advance(60)
    assert taken(buckets, 4) == [True, True, True, False]


def test_each_has_a_bucket_for_each_thing():
    """Nobody uses up what is another's."""
    buckets = Rates(Clock().seconds)
    assert taken(buckets, 4)[-1] is False
    assert taken(buckets, 1, whose="bob") == [True]
    assert buckets.take("recipients", "anna", THREE)


def test_another_limit_counts_at_once():
    """After a reload; what was taken under the old one stays taken."""
    buckets = Rates(Clock().seconds)
    taken(buckets, 3)
    assert taken(buckets, 2, rate=Rate(4, 80.0, "4/80s")) == [True, False]


@given(st.integers(1, 2000), st.floats(0.001, 1e7), st.floats(0, 1e9))
def test_exactly_so_many(count, seconds, now):
    """Whatever fractions a token's time has."""
    buckets = Rates(lambda: now)
    assert taken(buckets, count + 1, rate=Rate(count, seconds, "")) == [True] * count + [False]


@given(st.lists(st.floats(0, 100), max_size=60))
def test_never_more_than_the_bucket_and_its_drops(pauses):
    """In any time t at most count + count * t / seconds."""
    clock, taken_at = Clock(), []
    buckets = Rates(clock.seconds)
    for pause in pauses:
        clock.advance(pause)
        if buckets.take("messages", "anna", THREE):
            taken_at.append(clock.seconds())
    for first, start in enumerate(taken_at):
        for last, end in enumerate(taken_at[first:], 1):
            assert last <= 3 + (end - start) / 20 + 0.5


@pytest.mark.parametrize("extra", [1, 1000])
def test_the_table_has_an_end(monkeypatch, extra):
    """Who sends from everywhere does not fill the memory; whose bucket is in use keeps it."""
    monkeypatch.setattr(rates, "MOST", 10)
    buckets = Rates(Clock().seconds)
    assert taken(buckets, 4)[-1] is False
    for number in range(10 + extra):
        assert taken(buckets, 1, whose=str(number)) == [True]
        assert taken(buckets, 1) == [False]
    assert len(buckets._buckets) == 10
