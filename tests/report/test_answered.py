"""Who was answered: once a week, not many an hour, and not forgotten by a restart."""

import pytest

from requiretls_mta.report.answered import HOUR, MOST, MOST_OF_ONE, PAUSE, Answered
from tests.report.test_ledger import Threads, wait


class Bench:
    """Memories of one file, one after the other, on a clock of their own."""

    def __init__(self, folder):
        self.path, self.now, self.memory = folder / "answered.db", 1e9, None
        self.restart()

    def restart(self):
        """What was told is written, and read again."""
        if self.memory is not None:
            self.memory.stop()
        self.memory = Answered(Threads(), self.path, lambda: self.now)
        wait(self.memory.start())

    def answer(self, sender="b@there", recipient="a@here", message="1"):
        """Whether there may be an answer; then it is noted."""
        if self.memory.silence(sender, recipient, message) is not None:
            return False
        self.memory.note(sender, recipient, message)
        return True


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.memory.stop()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_sender_is_answered_once_in_seven_days(bench, restarted):
    """For each recipient; a restart does not change it."""
    assert bench.answer(message="1")
    if restarted:
        bench.restart()
    assert not bench.answer(message="2")
    assert bench.answer(recipient="c@here", message="2")
    assert bench.answer(sender="d@there", message="3")
    bench.now += PAUSE - 1
    assert not bench.answer(message="4")
    bench.now += 1
    if restarted:
        bench.restart()
    assert bench.answer(message="5")


@pytest.mark.parametrize("restarted", [False, True])
def test_the_same_message_is_answered_again(bench, restarted):
    """It is attempted once more only if its settlement, the reply in it, did not become durable."""
    assert bench.answer(message="1")
    if restarted:
        bench.restart()
    assert bench.answer(message="1")
    assert not bench.answer(message="2")


def test_a_recipient_does_not_answer_many_in_an_hour(bench):
    """Who is flooded from everywhere floods nobody; others go on."""
    assert all(bench.answer(sender=f"{n}@there", message=str(n)) for n in range(MOST_OF_ONE))
    assert not bench.answer()
    bench.restart()
    assert not bench.answer()
    assert bench.answer(recipient="c@here")
    bench.now += HOUR
    assert bench.answer()


def test_the_house_does_not_answer_many_in_an_hour(bench):
    """That bounds what is remembered, too."""
    found = [bench.answer(f"{n}@there", f"{n // 20}@here", str(n)) for n in range(MOST + 20)]
    assert found == [True] * MOST + [False] * 20


def test_what_is_over_is_forgotten(bench, tmp_path):
    """In memory and on disk."""
    for n in range(5):
        bench.answer(sender=f"{n}@there", message=str(n))
    bench.now += PAUSE
    assert bench.answer(message="9")
    assert len(bench.memory._pairs) == 1
    bench.restart()
    assert len(bench.memory._pairs) == 1


def test_addresses_are_not_kept(bench):
    """What lies in the file tells nobody who wrote to whom."""
    bench.answer()
    bench.memory.stop()
    octets = bench.path.read_bytes()
    assert b"there" not in octets and b"a@here" not in octets
    bench.restart()


def test_without_a_memory_nobody_is_answered(tmp_path):
    """A file that cannot be opened, and the time before it was read."""
    memory = Answered(Threads(), tmp_path / "missing" / "answered.db", lambda: 0.0)
    assert memory.silence("b", "a", "1")
    wait(memory.start())
    assert memory.silence("b", "a", "1")
    memory.stop()
