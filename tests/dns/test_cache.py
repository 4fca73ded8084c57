"""What is kept, for how long, and how much of it."""

import pytest
from twisted.internet.task import Clock

from requiretls_mta.dns.answer import Answer, Status
from requiretls_mta.dns.cache import Cache


def answer(name="a.test.", rdtype="MX", **more):
    return Answer(
        **{
            "name": name,
            "rdtype": rdtype,
            "status": Status.SECURE,
            "rcode": "NOERROR",
            "canonical": name,
            "ttl": 60,
            **more,
        }
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return Cache(clock)


@pytest.mark.parametrize(
    ("kept", "seconds"),
    [
        (answer(ttl=60), 60),
        (answer(ttl=86400), 3600),
        (answer(ttl=0), 0),
        (answer(rcode="NXDOMAIN", ttl=7200), 3600),
        (answer(status=Status.FAILURE, rcode="SERVFAIL", ttl=600), 15),
        (answer(status=Status.BOGUS, rcode="SERVFAIL", ttl=600), 15),
    ],
)
def test_lifetimes(cache, clock, kept, seconds):
    """TTLs up to an hour, failures 15 seconds, TTL 0 never."""
    cache.put(kept)
    if seconds:
        clock.advance(seconds - 1)
        assert cache.get("a.test.", "MX") is not None
    clock.advance(1)
    assert cache.get("a.test.", "MX") is None
    assert len(cache) == 0 or seconds == 0


def test_the_ttl_runs_down(cache, clock):
    """Who keeps an answer on must not keep it longer than the zone allows."""
    cache.put(answer(ttl=60))
    clock.advance(45)
    assert cache.get("a.test.", "MX").ttl == 15


def test_security_is_kept_with_the_answer(cache):
    """AD belongs to the answer, not to the moment."""
    cache.put(answer())
    cache.put(answer(rdtype="A", status=Status.INSECURE))
    assert cache.get("a.test.", "MX").is_secure
    assert not cache.get("a.test.", "A").is_secure


def test_a_name_that_does_not_exist_has_no_type(cache):
    """RFC 2308 5."""
    cache.put(answer(rcode="NXDOMAIN"))
    assert cache.get("a.test.", "AAAA").rdtype == "AAAA"
    assert cache.get("b.a.test.", "MX") is None


def test_an_alias_to_nowhere_exists(cache):
    """NXDOMAIN is then about its target."""
    cache.put(answer(rcode="NXDOMAIN", canonical="gone.test."))
    assert cache.get("a.test.", "MX") is not None
    assert cache.get("a.test.", "CNAME") is None


def test_the_least_recently_used_goes_first(clock):
    """Bounded in number."""
    cache = Cache(clock, entries=2)
    cache.put(answer("a.test."))
    cache.put(answer("b.test."))
    assert cache.get("a.test.", "MX")
    cache.put(answer("c.test."))
    assert len(cache) == 2
    assert cache.get("b.test.", "MX") is None


def test_large_answers_do_not_fill_the_memory(clock):
    """Bounded in octets: a stranger chooses which of his names we look up."""
    cache = Cache(clock, octets=100_000)
    for i in range(10):
        cache.put(answer(f"n{i}.test."), 60_000)
    assert len(cache) == 1
    cache.put(answer("huge.test."), 200_000)
    assert len(cache) == 0
    for _ in range(3):
        cache.put(answer("again.test."), 40_000)
    assert len(cache) == 1
