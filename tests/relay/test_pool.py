"""Kept sessions: who may ride on them, and that each one ends."""

from twisted.internet.task import Clock

from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.pool import Pool
from requiretls_mta.relay.route import Host
from requiretls_mta.tls.elements import TLSState

HOST = Host(name="mx.test")


class FakeSession:
    """Knows how it was ended."""

    def __init__(self):
        self.is_open, self.end = True, None

    def quit(self, timeout):
        """As `ClientSession.quit`."""
        self.is_open, self.end = False, f"quit {timeout}"

    def abort(self, why):
        """As `ClientSession.abort`."""
        self.is_open, self.end = False, "abort"


def kept(pool, *, host=HOST, generation=0, optional=False, idle=5.0):
    line = Line(FakeSession(), host, "192.0.2.1", TLSState.ESTABLISHED, generation=generation)
    pool.keep(line, optional=optional, idle=idle, quit_time=3.0)
    return line


def take(pool, *, host=HOST, generation=0, optional=False, fits=lambda line: True):
    return pool.take(host, optional=optional, generation=generation, fits=fits)


def test_the_latest_is_taken_first_and_only_once():
    """Younger sessions are likelier to be alive; none serves two messages at a time."""
    pool = Pool(Clock())
    first, second = kept(pool), kept(pool)
    assert [take(pool), take(pool), take(pool)] == [second, first, None]


def test_each_kind_is_apart():
    """Other host, port or protocol, and TLS-optional mail: never shared (C39)."""
    pool = Pool(Clock())
    line = kept(pool)
    for host in (Host(name="mx2.test"), Host(name="mx.test", port=26), Host(name="mx.test", protocol="smtps")):
        assert take(pool, host=host) is None
    assert take(pool, optional=True) is None
    assert take(pool) is line


def test_who_does_not_fit_stays():
    """A session that is not good enough for one message is kept for others (C38)."""
    clock = Clock()
    pool = Pool(clock)
    line = kept(pool)
    assert take(pool, fits=lambda _: False) is None and line.session.is_open
    assert take(pool) is line
    assert not clock.getDelayedCalls()


def test_idle_sessions_end_with_quit():
    """After their time, each for itself."""
    clock = Clock()
    pool = Pool(clock)
    first = kept(pool)
    clock.advance(3)
    second = kept(pool)
    clock.advance(2)
    assert first.session.end == "quit 3.0" and second.session.is_open
    clock.advance(3)
    assert second.session.end == "quit 3.0" and not clock.getDelayedCalls()


def test_a_reload_ends_what_is_older():
    """Not used again, and not left open either."""
    clock = Clock()
    pool = Pool(clock)
    old, older = kept(pool), kept(pool)
    new = kept(pool, generation=1)
    assert take(pool, generation=1) is new
    assert take(pool, generation=1) is None
    assert old.session.end == older.session.end == "quit 3.0"
    assert not clock.getDelayedCalls()


def test_closed_ones_are_not_kept_and_not_taken():
    """A server ends sessions as it likes."""
    clock = Clock()
    pool = Pool(clock)
    line = kept(pool)
    line.session.is_open = False
    pool.keep(line, optional=False, idle=5.0, quit_time=3.0)
    assert take(pool) is None and not clock.getDelayedCalls()


def test_not_more_than_enough():
    """Beyond the limit, and with no time to be idle, sessions end at once; room that was left is used again."""
    clock = Clock()
    pool = Pool(clock)
    assert kept(pool, idle=0.0).session.end == "quit 3.0"
    lines = [kept(pool, host=Host(name=f"mx{number}.test")) for number in range(500)]
    assert kept(pool).session.end == "quit 3.0"
    clock.advance(5)
    assert all(line.session.end == "quit 3.0" for line in lines)
    assert kept(pool).session.is_open


def test_closing_ends_all():
    """No session and no timer is left."""
    clock = Clock()
    pool = Pool(clock)
    lines = [kept(pool), kept(pool), kept(pool, optional=True), kept(pool, host=Host(name="mx2.test"))]
    pool.close()
    assert all(line.session.end == "abort" for line in lines)
    assert not clock.getDelayedCalls()
