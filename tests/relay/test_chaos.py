"""Whatever two servers do: the attempt ends, each recipient has an outcome, and the promise holds."""

import os
import random

import attrs
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.smtp.client import Timeouts
from tests.relay.fakes import FakePolicy
from tests.relay.test_policies import ee
from tests.relay.walking import SECRET, WORDS, Walking, message
from tests.smtp.fake_mx import GOOD

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "80"))
VERBS = ("EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT", ".", "RSET")
SAID = ("250 ok", "354 go on", "421 4.7.0 bye", "450 4.2.0 later", "550 5.1.1 no", "hello", "250-a\r\n550 b", "", "25")
KEYWORDS = ("REQUIRETLS", "requiretls", "XREQUIRETLS", "AUTH REQUIRETLS", "REQUIRETLS")
SHORT = Timeouts(connect=1, greeting=0.3, hello=0.3, handshake=0.3, mail=0.3, rcpt=0.3, data=0.3, chunk=0.3, end=0.3)


class Chaos(Walking):
    """Each round from its own seed, which is told when it fails."""

    timeout = 100

    def options(self, rng, place):
        """How a server behaves; and whether PKIX authenticates it."""
        names = [f"mx{place}.there.test"] if rng.random() < 0.7 else ["there.test", f"mx{3 - place}.there.test"]
        authority = self.ca if rng.random() < 0.7 else self.other
        inside = [*rng.sample(GOOD, rng.randrange(len(GOOD))), rng.choice(KEYWORDS)]
        if rng.random() < 0.4:
            inside.append("CHUNKING")
        options = {
            "files": self.certificate(authority, names),
            "clear": ("STARTTLS", "REQUIRETLS") if rng.random() < 0.8 else GOOD,
            "inside": inside,
        }
        if rng.random() < 0.7:
            options["replies"] = {
                verb: [None] * rng.randrange(5) + [rng.choice(SAID)]
                if verb in ("EHLO", "MAIL", "RCPT")
                else rng.choice(SAID)
                for verb in rng.sample(VERBS, rng.randrange(3))
            }
        if rng.random() < 0.4:
            options[rng.choice(("close", "closed"))] = rng.choice(VERBS)
            options["reset"] = rng.random() < 0.3
        trouble = {
            "greeting": rng.choice(SAID),
            "starttls": rng.choice(SAID),
            "behind": b"250-mx\r\n250 REQUIRETLS\r\n" if rng.random() < 0.5 else b"25",
            "early": rng.choice(SAID),
            "stall": True,
            "break_handshake": True,
        }
        if rng.random() < 0.3:
            chosen = rng.choice(sorted(trouble))
            options[chosen] = trouble[chosen]
        return options, len(names) == 1 and authority is self.ca

    def publish(self, rng, place, files):
        """TLSA records of a host: whether they are there, and whether they authenticate it."""
        wrong = "3 1 1 " + "00" * 32
        records, kind = rng.choice(
            (
                ([], "none"),
                ([], "none"),
                ([ee(files)], "right"),
                ([wrong, ee(files)], "right"),
                ([wrong], "wrong"),
                (["1 1 1 " + "00" * 32, "3 1 1 00"], "unusable"),
                ({"status": Status.FAILURE, "rcode": "SERVFAIL"}, "unknown"),
            )
        )
        self.resolver.table[f"_{self.number}._tcp.mx{place}.there.test", "TLSA"] = records
        return kind

    def situation(self, rng, servers):
        """What the DNS and MTA-STS say; who may get tagged (with the keyword), untagged, and clear mail."""
        records = (yield self.resolver.resolve("there.test", "MX")).records
        signed = rng.random() < 0.6
        self.resolver.table["there.test", "MX"] = {
            "status": Status.SECURE if signed else Status.INSECURE,
            "rcode": "NOERROR",
            "records": records,
        }
        listed = rng.choice(((1,), (2,), (1, 2)))
        policy = rng.choice((None, None, "enforce", "enforce", "testing", "none"))
        names = [f"mx{place}.there.test" for place in listed]
        self.policies.table = {"there.test": FakePolicy(policy, *names)} if policy else {}
        allowed = []
        for place, (options, pkix) in enumerate(servers, 1):
            dane = self.publish(rng, place, options["files"])
            enforced = policy == "enforce"
            vouched = enforced and place in listed
            barred = enforced and place not in listed and not (signed and dane == "right")
            found = (signed or vouched) and not barred
            proved = dane == "right" or (pkix and (dane == "none" or (dane == "unusable" and vouched)))
            let = dane not in ("wrong", "unknown") and not barred and (not vouched or dane == "right" or pkix)
            allowed.append((found and proved, let, let and dane == "none" and not enforced))
        return allowed

    def certificate(self, authority, names):
        key = (authority.name, *names)
        if key not in self.made:
            self.made[key] = authority.host(*names)
        return self.made[key]

    @inlineCallbacks
    def test_rounds(self):
        """Random misbehaviour, random tags; kept sessions ride along when the servers stay the same."""
        self.made = {}
        self.open = b"".join(WORDS)  # judged here, by what each session was
        self.settings = attrs.evolve(self.settings, timeouts=SHORT)
        for seed in range(ROUNDS):
            rng = random.Random(seed)
            first, second = (self.options(rng, place) for place in (1, 2))
            allowed = yield from self.situation(rng, (first, second))
            servers = [
                (self.mx(place, **options), may)
                for place, (options, _), may in zip((1, 2), (first, second), allowed, strict=True)
            ]
            told = f"seed {seed}: {first} {second} {allowed}"
            for _ in range(rng.choice((1, 2))):
                yield self.round(told, rng, servers)
            self.manager.close()
            for server, _ in servers:
                self.drop(server)
            yield self.until(lambda servers=servers: all(server.has_all for server, _ in servers))
            for server, may in servers:
                for session in server.sessions:
                    judge(told, session, *may)

    @inlineCallbacks
    def round(self, told, rng, servers):
        tag = rng.choice((Tag.REQUIRED, Tag.REQUIRED, Tag.OPTIONAL, None))
        to = [Recipient(parse_mailbox(f"secret-rcpt{n}@there.test")) for n in range(rng.choice((1, 1, 3)))]
        octets = b"Subject: x\r\n\r\n" + SECRET + b"\r\n" + rng.choice((b"", b"x" * 300_000 + b"\r\n"))
        if tag is not Tag.REQUIRED:
            word = "untagged" if tag is None else "open"
            octets = octets.replace(SECRET, word.encode())
            to = [Recipient(parse_mailbox(f"{word}{n}@there.test")) for n in range(len(to))]
        sender = "secret-sender@here.test" if tag is Tag.REQUIRED else f"{word}@here.test"
        before = [len(server.messages) for server, _ in servers]
        start = reactor.seconds()
        got = yield self.manager.deliver(message(tag, octets, sender=sender), to)
        assert reactor.seconds() - start < 15, told
        assert [outcome.recipient for outcome in got] == to, told
        for outcome in got:
            match outcome:
                case Delivered():
                    assert outcome.reply.code // 100 == 2, told
                    taken = any(len(s.messages) > n for (s, _), n in zip(servers, before, strict=True))
                    # Who says yes to what it did not read yet, or took for commands, has lied, not we.
                    assert taken or any(lies(server) for server, _ in servers), told
                    assert tag is not Tag.REQUIRED or outcome.security.requiretls, told
                case Postponed():
                    assert outcome.reply.is_temporary, told
                case Failed():
                    assert outcome.reply.is_permanent, told


def lies(server):
    """Whether it says yes to a message that it never had."""
    return "early" in server.options or str(server.options["replies"].get("DATA")).startswith("354")


def judge(told, session, tagged, untagged, clear):
    """Each session by itself: what it was told on the wire, and inside TLS if that TLS was good enough."""
    for word in (b"secret", SECRET, b"REQUIRETLS"):
        assert word not in session.outside, told
        assert (tagged and "REQUIRETLS" in session.keywords) or word not in session.tls, told
    # RFC 7672 2.2, RFC 8461 5.
    assert untagged or b"untagged" not in session.tls, told
    assert clear or b"untagged" not in session.outside, told
