"""Turns: each site's work in order, sites one after the other, and nothing lost by those who leave."""

from twisted.internet.defer import Deferred

from requiretls_mta.checks.turns import Turns


class Bench:
    """Work that ends when it is told to."""

    def __init__(self, places):
        self.turns, self.begun = Turns(places), []

    def ask(self, site, number=0):
        done = Deferred.fromCoroutine(self.turns.run(site, self.work, f"{site}{number}"))
        return done.addErrback(lambda _: None)

    def work(self, name):
        self.begun.append((name, Deferred()))
        return self.begun[-1][1]

    @property
    def names(self):
        return [name for name, _ in self.begun]


def test_whoever_waits_is_taken_site_by_site():
    """The one with many who wait gets no more than the one with few."""
    bench = Bench(2)
    for site, count in (("a", 5), ("b", 3)):
        for number in range(count):
            bench.ask(site, number)
    for number in range(8):
        bench.begun[number][1].callback(None)
    assert bench.names == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4"]


def test_who_leaves_gives_his_turn_back():
    """While it waits, or while it is at work."""
    bench = Bench(2)
    works = [bench.ask("a", number) for number in range(4)]
    assert bench.names == ["a0"]
    works[1].cancel()
    works[0].cancel()
    assert bench.names == ["a0", "a2"]
    bench.begun[1][1].errback(ValueError())
    assert bench.names == ["a0", "a2", "a3"]
