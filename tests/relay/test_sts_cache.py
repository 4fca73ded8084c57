"""Policies on disk: they come back as they were, or not at all."""

import json
import shutil
import stat
import tempfile
from pathlib import Path

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import TestCase

from requiretls_mta.relay import sts_cache
from requiretls_mta.relay.sts_cache import DAY, IDLE, Kept, PolicyCache, read_kept, write_kept
from requiretls_mta.tls.mta_sts import parse_policy
from tests.lab.https import policy

NOW = 1_700_000_000.0


def parsed(*mx, version="1", **options):
    return parse_policy(policy(*mx or ("mx.test",), **options), version)


def kept(**changes):
    return attrs.evolve(Kept(domain="a.test", policy=parsed(), fetched=NOW, used=NOW), **changes)


def test_what_is_written_is_read():
    """All of it, umlauts included."""
    one = kept(policy=parse_policy(policy("mx.test") + "x: ü\r\n".encode(), "1"), fetched=NOW - 5.5)
    assert read_kept(write_kept(one), "a.test", NOW) == one


def test_what_was_not_written_by_us_is_absent():
    """Other domains, other types, nonsense, policies that are none."""
    good = json.loads(write_kept(kept()))
    for changes in (
        {"domain": "b.test"},
        {"id": 5},
        {"fetched": "soon"},
        {"fetched": -1},
        {"used": None},
        {"policy": "x"},
        {"policy": ["x"]},
        {"policy": "\udcff"},
        {"fetched": 10**400},
    ):
        assert read_kept(json.dumps(good | changes).encode(), "a.test", NOW) is None, changes
    for octets in (b"", b"[]", b"null", b"[" * 100_000, b'{"domain": "a.test"}', b"\xff", b'{"fetched": NaN}'):
        assert read_kept(octets, "a.test", NOW) is None
    for word in ("NaN", "Infinity"):
        octets = write_kept(kept()).replace(b'"fetched": 1700000000.0', b'"fetched": ' + word.encode())
        assert read_kept(octets, "a.test", NOW) is None


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
@example(b"", 0, 0)
def test_no_damage_passes_for_a_policy(octets, start, end):
    """Whatever happens to a file: the policy as it was (or with another text that is one), or none."""
    whole = write_kept(kept())
    damaged = whole[:start] + octets + whole[end:]
    found = read_kept(damaged, "a.test", NOW)
    if found is not None:
        assert found.policy == parse_policy(found.policy.text.encode(), found.policy.id)
        assert 0 <= found.fetched <= NOW


def test_ages():
    """In force for max_age; due after a day or half of it; a clock that steps back ends nothing but is looked into."""
    one = kept(policy=parsed(max_age=10 * DAY))
    assert [one.is_valid(NOW + t) for t in (-DAY, 0, 10 * DAY - 1, 10 * DAY)] == [True, True, True, False]
    assert [one.is_due(NOW + t) for t in (-1, 0, DAY - 1, DAY)] == [True, False, False, True]
    short = kept(policy=parsed(max_age=100))
    assert [short.is_due(NOW + t) for t in (49, 50)] == [False, True]


class Keeping(TestCase):
    timeout = 10

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp()) / "mta-sts"
        self.addCleanup(shutil.rmtree, self.folder.parent)
        self.now = NOW
        self.cache = self.new()

    def new(self):
        cache = PolicyCache(reactor, self.folder, lambda: self.now)
        self.addCleanup(cache.stop)
        return cache

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    @inlineCallbacks
    def again(self):
        self.cache.stop()
        self.cache = self.new()
        yield self.cache.start()

    @inlineCallbacks
    def test_a_restart_keeps_them(self):
        """Private files, one each; what has ended, or was never finished, is swept away."""
        yield self.cache.start()
        self.cache.put("a.test", parsed("old.test", max_age=10 * DAY))
        self.cache.put("a.test", parsed("a.test", max_age=10 * DAY, version="2"))
        self.cache.put("b.test", parsed(max_age=100))
        self.cache.put("none.test", parsed(mode="none"))
        self.cache.stop()
        assert self.files() == ["a.test.json", "b.test.json", "none.test.json"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir()} == {0o600}
        assert stat.S_IMODE(self.folder.stat().st_mode) == 0o700
        self.now += 100
        (self.folder / "c.test.part").write_bytes(b"half")
        (self.folder / "d.test.json").write_bytes(b"{}")
        (self.folder / "e.test.json").mkdir()
        (self.folder / "..json").write_bytes(b"{}")
        yield self.again()
        assert self.files() == ["a.test.json", "e.test.json", "none.test.json"]
        found = self.cache.get("a.test")
        assert (found.policy, found.fetched) == (parsed("a.test", max_age=10 * DAY, version="2"), NOW)
        assert self.cache.get("none.test").policy.mode.value == "none"
        assert self.cache.get("b.test") is None

    @inlineCallbacks
    def test_what_ends_is_removed(self):
        """By its age, and by a new policy that is not to be kept."""
        yield self.cache.start()
        for domain in ("a.test", "b.test", "c.test"):
            self.cache.put(domain, parsed(max_age=100 if domain != "c.test" else 200))
        self.cache.put("b.test", parsed(max_age=0))
        assert self.cache.get("b.test") is None
        self.now += 100
        assert self.cache.get("a.test") is None
        assert self.cache.get("c.test") is not None
        self.cache.stop()
        assert self.files() == ["c.test.json"]

    @inlineCallbacks
    def test_there_are_never_too_many(self):
        """What was not used for longest goes, with its file."""
        self.patch(sts_cache, "MOST_POLICIES", 3)
        yield self.cache.start()
        for number in range(3):
            self.cache.put(f"{number}.test", parsed())
        assert self.cache.get("0.test") and self.cache.peek("1.test")
        self.cache.put("3.test", parsed())
        assert [bool(self.cache.peek(f"{n}.test")) for n in range(4)] == [True, False, True, True]
        self.patch(sts_cache, "MOST_MEMORY", 3 * 1024)
        self.cache.put("4.test", parsed())
        assert [bool(self.cache.peek(f"{n}.test")) for n in range(5)] == [False, False, False, True, True]
        yield self.again()
        assert self.files() == ["3.test.json", "4.test.json"]

    @inlineCallbacks
    def test_what_is_due(self):
        """The oldest first; not what lives for hours, nor what no mail asked for in a month."""
        yield self.cache.start()
        self.cache.put("a.test", parsed(max_age=100 * DAY))
        self.now += 1
        self.cache.put("b.test", parsed(max_age=100 * DAY))
        self.cache.put("short.test", parsed(max_age=2000))
        self.now += DAY / 2
        self.cache.put("new.test", parsed(max_age=100 * DAY))
        assert self.cache.due(9, lambda _: False) == []
        self.now += DAY / 2
        assert self.cache.due(9, lambda _: False) == ["a.test", "b.test"]
        assert self.cache.due(1, lambda _: False) == ["a.test"]
        assert self.cache.due(1, "a.test".__eq__) == ["b.test"]
        assert self.cache.get("b.test").used == self.now
        self.now += IDLE - 1
        assert self.cache.due(1, lambda _: False) == ["b.test"]
        self.cache.put("b.test", parsed(max_age=100 * DAY))
        assert self.cache.peek("b.test").used == self.now - IDLE + 1, "renewing is no use"

    @inlineCallbacks
    def test_a_clock_that_was_wrong_makes_nothing_live_longer(self):
        """A time to come is taken for now."""
        yield self.cache.start()
        self.now += 1000 * DAY
        self.cache.put("a.test", parsed(max_age=10 * DAY))
        self.now -= 1000 * DAY
        yield self.again()
        assert self.cache.get("a.test").fetched == NOW

    @inlineCallbacks
    def test_a_folder_that_cannot_be_used_leaves_the_memory(self):
        """Told in the log; mail goes on."""
        self.folder.write_bytes(b"a file")
        yield self.cache.start()
        self.cache.put("a.test", parsed())
        assert self.cache.get("a.test") is not None
        self.cache.stop()
        yield self.turn()
        assert self.flushLoggedErrors(OSError)

    def turn(self):
        from twisted.internet.task import deferLater

        return deferLater(reactor, 0.05, lambda: None)
