"""MTA-STS policies of next hops: looked up, fetched, kept, renewed; and what is said when they cannot be."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from requiretls_mta.dns.answer import Status
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.relay.sts import LONGEST_PAUSE, LOOK, PAUSE, SWEEP, STSPolicies
from requiretls_mta.relay.sts_cache import DAY, Kept, write_kept
from requiretls_mta.relay.sts_fetch import FetchFailure
from requiretls_mta.tls.mta_sts import Mode, Policy, parse_policy
from tests.lab.https import policy
from tests.receive.fakes import RecordedEvents
from tests.relay.fakes import FakeResolver

TXT = ("_mta-sts.a.test", "TXT")
SERVFAIL = {"status": Status.FAILURE, "rcode": "SERVFAIL"}
BOGUS = {"status": Status.BOGUS, "rcode": "SERVFAIL"}
NXDOMAIN = {"status": Status.INSECURE, "rcode": "NXDOMAIN"}
UNREACHABLE = FetchFailure(result="sts-policy-fetch-error", detail="connection refused")


class World:
    """A name server, policy hosts, two clocks."""

    def __init__(self):
        self.clock, self.now = Clock(), 1_700_000_000.0
        self.resolver = FakeResolver({}, Status.INSECURE)
        self.served, self.fetched, self.held = {}, [], None
        self.events = RecordedEvents()
        self.policies = STSPolicies(self.clock, self.resolver, self.fetch, events=self.events, wall=lambda: self.now)

    def fetch(self, domain):
        self.fetched.append(domain)
        if self.held is not None:
            waiting = Deferred()
            self.held.append(waiting)
            return waiting
        return succeed(self.served.get(domain, UNREACHABLE))

    def publish(self, *mx, version="1", domain="a.test", **options):
        self.announce(version, domain)
        self.served[domain] = policy(*mx or ("mx.a.test",), **options)

    def announce(self, version, domain="a.test"):
        self.resolver.table[(f"_mta-sts.{domain}", "TXT")] = [f'"v=STSv1; " "id={version};"']

    def find(self, domain="a.test"):
        return now(self.policies.find(domain))

    def renewed(self, known):
        return now(self.policies.renewed("a.test", known))

    def advance(self, seconds):
        self.now += seconds
        self.clock.advance(seconds)

    def told(self):
        return [fields["decision"] for event, fields in self.events.seen if event == "policy"]


def now(deferred):
    got = []
    deferred.addCallback(got.append)
    assert got, "it waits"
    return got[0]


@pytest.fixture
def world():
    return World()


# --- the first time


def test_a_policy_is_found(world):
    """Announced, fetched once, and from then on at hand; told to the log once."""
    world.publish("mx.a.test", "*.b.test")
    found = world.find()
    assert (found.mode, found.mx, found.id) == (Mode.ENFORCE, ("mx.a.test", "*.b.test"), "1")
    assert world.find() is found
    assert world.fetched == ["a.test"]
    ((event, fields),) = world.events.seen
    assert (event, fields["decision"], fields["domain"]) == ("policy", "MTA-STS policy taken", "a.test")


def test_no_announcement_no_fetch(world):
    """Nothing in the DNS, or what counts for nothing (RFC 8461 3.1)."""
    for answer in (NXDOMAIN, [], ['"v=spf1 -all"']):
        world.resolver.table[TXT] = answer
        assert world.find() == NoPolicy()
    for answer in (['"v=STSv1;"'], ['"v=STSv1; id=1"', '"v=STSv1; id=2"']):
        world.resolver.table[TXT] = answer
        found = world.find()
        assert found.problem and (found.result, found.temporary) == (None, False)
    assert world.fetched == []


def test_a_name_server_that_fails_is_temporary(world):
    """Whether there is a policy cannot be known now; bogus data may be an attack."""
    for answer in (SERVFAIL, BOGUS):
        world.resolver.table[TXT] = answer
        found = world.find()
        assert found.temporary and "SERVFAIL" in found.problem
    assert world.fetched == []


def test_what_can_have_no_policy_is_not_looked_up(world):
    """Literals (RFC 8461 3.4), names too long or none; and never a parent's policy."""
    world.publish(domain="test")
    for domain in ("[192.0.2.1]", "", "x" * 250, "a..test"):
        assert world.find(domain) == NoPolicy()
    assert world.resolver.asked == []
    assert world.find("sub.test") == NoPolicy()
    assert world.resolver.asked == [("_mta-sts.sub.test", "TXT")]


@pytest.mark.parametrize(
    ("served", "result"),
    [
        (UNREACHABLE, "sts-policy-fetch-error"),
        (FetchFailure(result="sts-webpki-invalid", detail="expired"), "sts-webpki-invalid"),
        (b"<html>", "sts-policy-invalid"),
        (policy(), "sts-policy-invalid"),
    ],
)
def test_announced_but_not_to_be_had(world, served, result):
    """Temporary for who needs it (T-CODE), as though there were none for who does not; told with its result type."""
    world.announce("1")
    world.served["a.test"] = served
    found = world.find()
    assert (found.result, found.temporary) == (result, True)
    assert found.problem.isprintable()
    ((_, fields),) = world.events.seen
    assert (fields["result"], fields["cached"], fields["level"]) == (result, False, "info")


def test_many_wait_for_one_fetch_and_other_domains_for_none(world):
    """Look-ups under way are shared; giving up waiting ends nobody else's; another domain is not held up."""
    world.publish()
    world.publish(domain="b.test")
    world.held = []
    first, second, third = [], world.policies.find("a.test"), []
    world.policies.find("a.test").addCallback(first.append)
    world.policies.find("a.test").addCallback(third.append)
    second.cancel()
    second.addErrback(lambda _: None)
    assert world.fetched == ["a.test"]
    waiting, world.held = world.held, None
    assert isinstance(world.find("b.test"), Policy)
    waiting[0].callback(world.served["a.test"])
    assert isinstance(first[0], Policy)
    assert first == third


# --- failures


def test_a_failed_fetch_is_not_repeated_at_once(world):
    """RFC 8461 3.3: five minutes per id, then ten, at most an hour; a new id is asked for at once."""
    world.announce("1")
    for pause in (PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, LONGEST_PAUSE, LONGEST_PAUSE):
        before = len(world.fetched)
        told = world.find()
        world.advance(pause - 1)
        assert world.find() == told
        assert len(world.fetched) == before + 1
        world.advance(1)
    world.announce("2")
    world.find()
    world.announce("3")
    world.find()
    assert len(world.fetched) == 8
    world.publish(version="3")
    assert world.find() == told, "still pausing"
    world.advance(PAUSE)
    assert isinstance(world.find(), Policy)


def test_a_host_that_was_never_asked_is_not_blamed(world):
    """With too many fetches under way the next message tries again."""
    world.announce("1")
    world.served["a.test"] = FetchFailure(result="sts-policy-fetch-error", detail="too many", asked=False)
    assert world.find().temporary
    world.publish()
    assert isinstance(world.find(), Policy)


# --- kept


def test_a_kept_policy_outlives_dns_and_https(world):
    """RFC 8461 3.3: applied as long as it is not over, whatever the DNS says; and then no more."""
    world.publish(max_age=10 * 86400)
    known = world.find()
    world.served.clear()
    for answer in (NXDOMAIN, SERVFAIL, BOGUS, ['"v=STSv1; id=1"', '"v=STSv1; id=2"'], ['"v=STSv1; id=9"']):
        world.resolver.table[TXT] = answer
        world.advance(DAY)
        assert world.find() is known
    world.advance(5 * DAY - 1)
    assert world.find() is known
    world.advance(1)
    assert world.find() == NoPolicy(problem="connection refused", result="sts-policy-fetch-error", temporary=True)


def test_a_new_id_is_followed_in_the_background(world):
    """The message at hand goes by what is known, the next one by the news."""
    world.publish("old.a.test")
    world.find()
    world.publish("new.a.test", version="2", mode="testing")
    assert world.find().mx == ("old.a.test",)
    assert (world.find().mx, world.find().id) == (("new.a.test",), "2")
    assert world.fetched == ["a.test"] * 2
    assert world.told() == ["MTA-STS policy taken"] * 2


def test_much_mail_asks_no_more(world):
    """One look a minute at the announcement of what is kept."""
    world.publish()
    for _ in range(10):
        world.find()
    assert len(world.resolver.asked) == 2
    world.advance(LOOK)
    for _ in range(10):
        world.find()
    assert len(world.resolver.asked) == 3


def test_a_policy_is_renewed_every_day_whatever_the_dns_says(world):
    """RFC 8461 10.2: whoever hides the announcement must do so for the whole of its life, and every day anew."""
    world.publish(max_age=5 * 86400)
    world.find()
    world.resolver.table[TXT] = NXDOMAIN
    for _ in range(20):
        world.advance(DAY)
        assert isinstance(world.find(), Policy)
    assert len(world.fetched) == 21
    assert world.told() == ["MTA-STS policy taken"], "renewing is no news"


def test_policies_are_renewed_without_mail(world):
    """By the clock, so that they live on between two messages; what fails is told, and pauses."""
    for name in "abc":
        world.publish(domain=f"{name}.test", max_age=5 * 86400)
    world.policies._sweep.start(SWEEP, now=False)
    for name in "abc":
        world.find(f"{name}.test")
    world.served["b.test"] = UNREACHABLE
    for _ in range(int(DAY / SWEEP) + 1):
        world.advance(SWEEP)
    assert sorted(world.fetched) == ["a.test"] * 2 + ["b.test"] * 2 + ["c.test"] * 2
    failed = [fields for _, fields in world.events.seen if fields["decision"] == "MTA-STS policy cannot be had"]
    assert [(f["domain"], f["cached"], f["level"]) for f in failed] == [("b.test", True, "warn")]
    world.advance(PAUSE)
    assert len(world.fetched) == 7
    world.policies.stop()
    world.advance(2 * DAY)
    assert len(world.fetched) == 7


def test_a_policy_of_mode_none_goes_quietly(world):
    """RFC 8461 8.3, 10.2: removal is clean, and its failures are nobody's alarm."""
    world.publish()
    world.find()
    world.publish(version="2", mode="none")
    world.find()
    assert world.find().mode is Mode.NONE
    world.resolver.table[TXT] = NXDOMAIN
    world.served.clear()
    world.advance(DAY / 2)
    assert world.find().mode is Mode.NONE
    assert world.events.seen[-1][1]["level"] == "info"
    world.advance(DAY / 2)
    assert world.find() == NoPolicy()


def test_a_policy_for_no_time_is_for_this_message(world):
    """max_age 0: used, and not kept."""
    world.publish(max_age=0)
    assert isinstance(world.find(), Policy)
    assert isinstance(world.find(), Policy)
    assert len(world.fetched) == 2


# --- before a message fails for good


def test_the_same_id_means_that_the_policy_holds(world):
    """C51: no fetch; and an announcement that went away ends nothing."""
    world.publish()
    known = world.find()
    assert world.renewed(known) is None
    world.resolver.table[TXT] = NXDOMAIN
    assert world.renewed(known) is None
    assert len(world.fetched) == 1


def test_a_new_id_brings_the_new_policy(world):
    """C51: past the cache; kept for all who come later."""
    world.publish("old.a.test")
    known = world.find()
    world.publish("new.a.test", version="2")
    found = world.renewed(known)
    assert found.mx == ("new.a.test",)
    assert world.find() is found
    assert len(world.fetched) == 2


def test_a_new_id_of_the_same_policy_is_no_news(world):
    """Mode and hosts are what counts."""
    world.publish()
    known = world.find()
    world.publish(version="2")
    assert world.renewed(known) is None


def test_what_was_fetched_meanwhile_is_not_fetched_again(world):
    """Somebody else's message saw the news first."""
    world.publish("old.a.test")
    known = world.find()
    world.publish("new.a.test", version="2")
    world.find()
    assert world.renewed(known).mx == ("new.a.test",)
    assert len(world.fetched) == 2


def test_what_cannot_be_seen_may_have_changed(world):
    """RFC 8461 5: nothing fails for good before somebody could look."""
    world.publish()
    known = world.find()
    world.resolver.table[TXT] = SERVFAIL
    assert world.renewed(known).temporary
    world.announce("2")
    world.served.clear()
    found = world.renewed(known)
    assert (found.result, found.temporary) == ("sts-policy-fetch-error", True)
    assert world.find() is known, "what is kept stays in force"


def test_a_policy_that_is_not_kept_is_known_by_its_id(world):
    """max_age 0 and the same id."""
    known = parse_policy(policy("mx.a.test", max_age=0), "1")
    world.publish(max_age=0)
    assert world.renewed(known) is None
    assert world.renewed(attrs.evolve(known, mx=("x.test",))) is None
    assert world.fetched == []


# --- whatever happens

BAD_DNS = [SERVFAIL, BOGUS, NXDOMAIN, [], ['"v=STSv1;"']]
BAD_HTTPS = [UNREACHABLE, b"", b"version: STSv1", b"\xff"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 4), st.sampled_from([0, 100, 5 * DAY])),
        st.tuples(st.just("announce"), st.sampled_from(BAD_DNS)),
        st.tuples(st.just("serve"), st.sampled_from(BAD_HTTPS)),
        st.tuples(st.just("advance"), st.sampled_from([1, 99, PAUSE, DAY, 4 * DAY])),
        st.just(("find",)),
        st.just(("renewed",)),
    ),
    max_size=40,
).map(lambda steps: [("publish", 1, 5 * DAY), ("find",), *steps, ("find",)])


@given(STEPS)
def test_a_policy_is_never_lost_before_its_end_nor_invented(steps):
    """Whatever DNS, HTTPS and time do in turn: what was served is in force for its age, and nothing else ever is."""
    world, known = World(), None
    served = {}  # text to when it was fetched last
    fetch = world.policies._fetch

    def watch(domain):
        got = world.served.get(domain)
        if isinstance(got, bytes) and b"mx" in got:
            served.pop(got.decode(), None)
            served[got.decode()] = world.now  # the last one last
        return fetch(domain)

    world.policies._fetch = watch
    world.policies._sweep.start(SWEEP, now=False)
    for step, *arguments in steps:
        match step:
            case "publish":
                number, age = arguments
                world.publish(f"mx{number}.a.test", version=str(number), max_age=age)
            case "announce":
                world.resolver.table[TXT] = arguments[0]
            case "serve":
                world.served["a.test"] = arguments[0]
            case "advance":
                world.advance(arguments[0])
            case "find":
                last, when = list(served.items())[-1] if served else ("", 0.0)
                found = world.find()
                if last and world.now - when < parse_policy(last.encode(), "1").max_age:
                    assert isinstance(found, Policy)
                if isinstance(found, Policy):
                    assert world.now - served[found.text] <= found.max_age
                    known = found
            case "renewed" if known is not None:
                found = world.renewed(known)
                assert not isinstance(found, Policy) or found.text in served
    world.policies.stop()


# --- the end


def test_the_end_is_an_answer(world):
    """Whoever waits when the service stops is told to come again; so is who asks later."""
    world.publish()
    world.held = []
    got = []
    world.policies.find("a.test").addCallback(got.append)
    world.policies.stop()
    assert got[0].temporary
    assert world.find().temporary
    assert len(world.fetched) == 1
    assert world.events.seen == []


def test_a_fetch_that_ends_by_itself_when_the_service_stops(world):
    """What HTTP makes of a cancelled request is no word about the policy."""
    world.publish()
    got, ended = [], []

    def fetch(domain):
        return Deferred(lambda d: (ended.append(domain), d.callback(UNREACHABLE)))

    world.policies._fetch = fetch
    world.policies.find("a.test").addCallback(got.append)
    world.policies.stop()
    assert ended == ["a.test"]
    assert "stopping" in got[0].problem
    assert world.events.seen == []


def test_policies_that_another_process_keeps(world, tmp_path):
    """Known here as they are there, without a look-up; what is found out here is not written there."""
    folder = tmp_path / "mta-sts"
    folder.mkdir()
    kept = Kept(
        domain="a.test",
        policy=parse_policy(policy("mx.a.test"), "1"),
        fetched=world.now - 60,
        used=world.now - 60,
    )
    (folder / "a.test.json").write_bytes(write_kept(kept))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    world.policies = STSPolicies(
        world.clock, world.resolver, world.fetch, lender=folder, events=world.events, wall=lambda: world.now
    )
    assert world.find().mx == ("mx.a.test",) and world.fetched == []
    world.publish("new.a.test", version="2")
    assert now(world.policies.renewed("a.test", kept.policy)).mx == ("new.a.test",)
    assert world.find().mx == ("new.a.test",), "what is borrowed does not come back"
    assert isinstance(world.find("b.test"), NoPolicy)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
