"""Queue ids: their form, and that none comes twice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.queue.ids import ALPHABET, EPOCHS, QueueIds, is_id, tick_of
from tests.queue.values import NOW


def test_the_alphabet():
    """What a person might misread is missing; the order is that of bytes."""
    assert len(ALPHABET) == 32
    assert not set("ilou") & set(ALPHABET)
    assert sorted(ALPHABET) == list(ALPHABET)


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=50), st.integers(0, EPOCHS - 1))
def test_ids_grow_whatever_the_clock_does(times, epoch):
    """Forwards, backwards or standing still."""
    clock = iter(times)
    ids = QueueIds(lambda: next(clock), epoch)
    given_out = [ids.new() for _ in times]
    assert all(map(is_id, given_out))
    assert sorted(set(given_out)) == given_out
    assert [tick_of(x) for x in given_out] == sorted(tick_of(x) for x in given_out)


def test_time_is_in_the_id():
    """Later ids of different stores sort later."""
    first, second = (QueueIds(lambda t=t: t, epoch).new() for t, epoch in ((NOW, EPOCHS - 1), (NOW + 0.001, 0)))
    assert first < second
    assert abs(tick_of(first) * 16e-6 - NOW) < 1


def test_another_epoch_never_repeats_an_id():
    """The same clock, begun anew without a floor: a crash and a clock set back."""
    ids = (QueueIds(lambda: NOW, epoch) for epoch in range(100))
    assert len({x.new() for one in ids for x in itertools.repeat(one, 100)}) == 10_000


def test_a_floor_keeps_the_order():
    """A store that was opened again goes on behind its last id, even when the clock was set back."""
    before = QueueIds(lambda: NOW, 1)
    last = before.new()
    assert QueueIds(lambda: NOW - 1e6, 2, before.last).new() > last
    assert before.last == tick_of(last)


@pytest.mark.parametrize(
    "text", ["", "0" * 15, "0" * 17, "0" * 15 + "i", "0" * 15 + "A", "../../etc/passwd", "0" * 15 + "\n"]
)
def test_what_is_no_id(text):
    """Nothing else passes, least of all a path."""
    assert not is_id(text)
    assert tick_of(text) == 0
