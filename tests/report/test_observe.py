"""Observations: what a session tells, what stays of many, and how much at most."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from requiretls_mta.report import observe
from requiretls_mta.report.observation import FEATURES, Host, Sighting, host_of, observed
from requiretls_mta.report.observe import KEPT, PAUSE, Notes, Observations, known, record

GOOD = {
    "queue_id": "q" * 16,
    "domain": "there.test",
    "next_hop": "there.test",
    "source": "198.51.100.1",
    "mx": "mx1.there.test",
    "address": "192.0.2.1",
    "port": 25,
    "starttls": True,
    "keyword": True,
    "tls_version": "TLSv1.3",
    "cipher": "TLS_AES_256_GCM_SHA384",
    "auth": "pkix",
    "mx_security": "dnssec",
    "dane": "none",
    "policy_type": "sts",
    "policy_domain": "there.test",
    "policy_strings": ("version: STSv1", "mode: enforce"),
    "policy_mx": ("mx1.there.test",),
    "sts_mode": "enforce",
    "result": None,
    "detail": "",
}
NOTHING = dict.fromkeys(GOOD) | {"domain": "there.test", "mx": "mx1.there.test"}


def told(**fields):
    """Feature to value, `False` for one that is missing."""
    host = observed(NOTHING | fields, 7.0)
    assert (host.first, host.last) == (7.0, 7.0)
    return {name: False if s.missed == 7.0 else (s.value, s.seen)[0] for name, s in host.sightings.items()}


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        (
            GOOD,
            {
                "starttls": "yes",
                "requiretls": "yes",
                "tls_version": "TLSv1.3",
                "auth": "pkix",
                "dnssec": "yes",
                "dane": False,
                "mta_sts": "enforce",
            },
        ),
        ({}, {}),
        ({"starttls": False, "result": "starttls-not-supported"}, {"starttls": False}),
        ({"starttls": False, "result": "validation-failure"}, {}),
        ({"starttls": True}, {"starttls": "yes"}),
        (
            {"tls_version": "TLSv1.2", "starttls": True, "keyword": False},
            {"starttls": "yes", "tls_version": "TLSv1.2", "requiretls": False, "auth": False},
        ),
        ({"keyword": True}, {}),
        ({"mx_security": "none"}, {"dnssec": False}),
        ({"mx_security": "mta-sts"}, {"dnssec": False}),
        ({"mx_security": "not-applicable"}, {}),
        ({"dane": "unusable"}, {"dane": "unusable"}),
        ({"dane": "unknown"}, {}),
        ({"dane": "none"}, {}),
        ({"dane": "none", "policy_type": "no-policy-found"}, {"dane": False}),
        ({"sts_mode": "testing"}, {"mta_sts": "testing"}),
        ({"sts_mode": "none"}, {"mta_sts": False}),
        ({"sts_mode": "\x1b[31m"}, {}),
        ({"tls_version": "\x1b" * 600, "starttls": True, "auth": "x"}, None),
    ],
)
def test_what_a_session_tells(fields, features):
    """Seen, missing, or nothing about it: only what has shown itself."""
    got = told(**fields)
    if features is not None:
        assert got == features
    assert all(value is False or (value.isprintable() and len(value) <= 255) for value in got.values())


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        (GOOD, ("there.test", "mx1.there.test")),
        ({"domain": "There.TEST.", "mx": "MX1."}, ("there.test", "mx1")),
        ({"domain": "[192.0.2.1]", "mx": "[192.0.2.1]"}, ("[192.0.2.1]", "[192.0.2.1]")),
        ({"domain": "a\x1b", "mx": "b\n"}, ("a\\x1b", "b\\n")),
        ({"mx": "mx1"}, None),
        ({"domain": "there.test", "mx": None}, None),
        ({"domain": "there.test", "mx": "x" * 256}, None),
        ({"domain": "there.test", "mx": "/run/lmtp"}, None),
    ],
)
def test_whom_a_session_was_with(fields, key):
    """Names are bounded and harmless, or there is nothing to note."""
    assert host_of(fields) == key


times = st.none() | st.floats(0, 1e10)
sightings = st.builds(Sighting, st.sampled_from(["a", "b"]), st.floats(0, 9), times) | st.builds(
    Sighting, st.none(), st.none(), times
)
hosts = st.builds(
    Host, st.floats(0, 5), st.floats(5, 9), st.dictionaries(st.sampled_from(FEATURES), sightings, max_size=3)
)


@given(hosts, hosts, hosts)
def test_knowledge_adds_up_in_any_order(a, b, c):
    """Several processes write when they like."""
    assert a | b == b | a
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert (a | b).last == max(a.last, b.last)


@pytest.mark.parametrize(
    ("sighting", "value"),
    [
        (Sighting("x", 2.0, None), "x"),
        (Sighting("x", 2.0, 1.0), "x"),
        (Sighting("x", 2.0, 2.0), "x"),
        (Sighting("x", 2.0, 3.0), None),
        (Sighting(missed=3.0), None),
        (Sighting(), None),
    ],
)
def test_the_newest_holds(sighting, value):
    """A feature that has gone is not there, though it was."""
    assert sighting.current == value


def some(number, last=1.0, **fields):
    return {(f"d{number}.test", "mx.test"): observed(NOTHING | fields, last)}


def test_what_is_recorded_is_read_back_and_added_to(tmp_path):
    """Sorted by domain and host; the dates of all sessions."""
    path = tmp_path / "observe.db"
    assert known(path) == [] and not path.exists()
    record(path, {("b.test", "mx"): observed(GOOD, 5.0), ("a.test", "mx"): observed(GOOD, 6.0)}, 10.0)
    record(path, {("b.test", "mx"): observed(GOOD | {"keyword": False}, 8.0)}, 10.0)
    assert [(domain, mx) for domain, mx, _ in known(path)] == [("a.test", "mx"), ("b.test", "mx")]
    ((_, _, host),) = known(path, "b.test")
    assert (host.first, host.last) == (5.0, 8.0)
    assert host.sighting("requiretls") == Sighting("yes", 5.0, 8.0)
    assert host.sighting("tls_version") == Sighting("TLSv1.3", 8.0, None)
    assert known(path, "c.test") == []


def test_the_old_and_the_many_are_forgotten(tmp_path, monkeypatch):
    """Bounded in age and number; who was met longest ago goes first."""
    path = tmp_path / "observe.db"
    monkeypatch.setattr(observe, "MOST", 3)
    for number in range(5):
        record(path, some(number, 100.0 + number), 200.0)
    assert [domain for domain, _, _ in known(path)] == ["d2.test", "d3.test", "d4.test"]
    record(path, some(7, KEPT + 103.5), KEPT + 103.5)
    assert [domain for domain, _, _ in known(path)] == ["d4.test", "d7.test"]


def test_notes_are_bounded(monkeypatch):
    """What is met beyond it is met again; whom one knows already one can learn more of."""
    monkeypatch.setattr(observe, "MOST_WAITING", 2)
    notes = Notes(lambda: 1.0)
    for number in (1, 2, 3, 1):
        notes.emit("tls", domain=f"d{number}.test", mx="mx.test", starttls=True)
    notes.emit("delivered", domain="d4.test", mx="mx.test")
    assert sorted(notes.take()) == [("d1.test", "mx.test"), ("d2.test", "mx.test")]
    assert notes.take() == {}


class FakeReactor(Clock):
    """Work in threads is waited for by stopping them."""

    def callFromThread(self, work, *args, **kwargs):
        work(*args, **kwargs)


def test_a_service_writes_now_and_then_and_at_its_end(tmp_path):
    """One timer for all that came; a restart goes on where it was."""
    clock, path = FakeReactor(), tmp_path / "observe.db"
    for number in (1, 2):
        service = Observations(clock, path, lambda: 1000.0)
        service.start()
        service.emit("connected")
        assert clock.getDelayedCalls() == []
        service.emit("tls", **GOOD | {"domain": f"timed{number}.test"})
        service.emit("tls", **GOOD | {"domain": f"timed{number}.test"})
        assert len(clock.getDelayedCalls()) == 1
        clock.advance(PAUSE)
        service.emit("tls", **GOOD | {"domain": f"stopped{number}.test"})
        service.stop()
        assert clock.getDelayedCalls() == []
    assert [domain for domain, _, _ in known(path)] == [
        "stopped1.test", "stopped2.test", "timed1.test", "timed2.test",
    ]  # fmt: skip
