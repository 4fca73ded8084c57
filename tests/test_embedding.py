"""What applications embed: the exports, the whole server as a service, and one message sent without a queue."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

import requiretls_mta
from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import AddressError
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.relay.sts import STSPolicies
from requiretls_mta.relay.sts_fetch import PolicyHosts
from requiretls_mta.tls.client import client_context
from tests.lab.ca import CA
from tests.lab.https import PolicyServer, policy
from tests.receive.fakes import RecordedEvents
from tests.relay.fakes import FakeResolver

MESSAGE = b"Subject: x\r\n\r\n.body\r\n"


def test_the_exports_are_lazy():
    """Importing the package loads no reactor; each name is there when it is asked for."""
    code = "import sys, requiretls_mta; assert 'twisted' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    for name in requiretls_mta.__all__:
        assert getattr(requiretls_mta, name)


class Embedded(TestCase):
    """An application that has the server in its own reactor."""

    timeout = 30

    @inlineCallbacks
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.ca = CA(self.folder / "ca")
        files = self.ca.host("mx.there.test")
        (self.folder / "config.toml").write_text(
            f"""hostname = "mx.there.test"
state = "state"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:0:interface=127.0.0.1"
service = "mx"
[domains]
local = ["there.test"]
[delivery]
maildir = "mail/{{domain}}/{{local}}"
[relay]
trust = "{self.ca.roots}"
"""
        )
        config = requiretls_mta.load_config(self.folder / "config.toml")
        self.events = RecordedEvents()
        self.service = requiretls_mta.make_service(config, reactor, resolver=FakeResolver(), events=self.events)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        ((_, address),) = self.service.listeners.addresses
        self.port = address.port
        yield self.until(lambda: self.service.is_accepting)

    @inlineCallbacks
    def until(self, condition):
        while not condition():
            turn = Deferred()
            reactor.callLater(0.02, turn.callback, None)
            yield turn

    def send(self, to, *, tag=Tag.REQUIRED, status=Status.SECURE, mx="mx.there.test.", policies=None):
        resolver = FakeResolver({("there.test", "MX"): [f"10 {mx}"], (mx.rstrip("."), "A"): ["127.0.0.1"]}, status)
        return requiretls_mta.send_mail(
            reactor,
            resolver,
            "me@here.test",
            to,
            MESSAGE,
            tag=tag,
            trust=str(self.ca.roots),
            port=self.port,
            policies=policies,
        )

    @inlineCallbacks
    def test_a_tagged_message_is_sent_and_delivered(self):
        """One outcome per recipient in order, with the evidence; the mailbox has the message."""
        outcomes = yield self.send(["a@there.test", "b@THERE.test"])
        assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
        assert [str(outcome.recipient.address) for outcome in outcomes] == ["a@there.test", "b@THERE.test"]
        assert outcomes[0].security.requiretls and outcomes[0].security.auth == "pkix"
        yield self.until(lambda: len(self.events.of("delivered")) == 2)
        (file,) = (self.folder / "mail/there.test/a/new").iterdir()
        assert file.read_bytes().endswith(b"Subject: x\n\n.body\n")
        assert b"(requiretls)" in file.read_bytes()

    @inlineCallbacks
    def test_what_cannot_be_promised_is_an_outcome(self):
        """An unsigned MX and a wrong name fail with 5.7.10, nothing is delivered."""
        for found in ({"status": Status.INSECURE}, {"mx": "other.there.test."}):
            (outcome,) = yield self.send(["a@there.test"], **found)
            assert isinstance(outcome, Failed)
            assert outcome.reply.enhanced == "5.7.10"
        assert not (self.folder / "mail").exists()

    @inlineCallbacks
    def test_untagged_mail_goes_as_it_can(self):
        """Without a tag neither DNSSEC nor the name is asked for."""
        (outcome,) = yield self.send(["a@there.test"], tag=None, status=Status.INSECURE, mx="other.there.test.")
        assert isinstance(outcome, Delivered)
        assert outcome.security.auth is None and outcome.security.tls_version == "TLSv1.3"

    @inlineCallbacks
    def test_policies_are_heeded_where_they_are_given(self):
        """C02 and C51: an unsigned MX that a policy lists; and one that only the newest policy lists."""
        web = PolicyServer("127.0.0.1", 0, self.ca)
        self.addCleanup(web.close)
        names = FakeResolver({("mta-sts.there.test", "A"): ["127.0.0.1"]}, Status.INSECURE)
        context = client_context(str(self.ca.roots))
        policies = STSPolicies(reactor, names, PolicyHosts(reactor, names, lambda: context, port=web.port).fetch)
        self.addCleanup(policies.stop)
        outcomes = []
        for version, mx in (("1", "elsewhere.test"), ("2", "*.there.test")):
            names.table["_mta-sts.there.test", "TXT"] = [f'"v=STSv1; id={version}"']
            web.serve("there.test", policy(mx))
            outcomes += yield self.send(["a@there.test"], status=Status.INSECURE, policies=policies)
        assert [type(outcome) for outcome in outcomes] == [Failed, Delivered]
        assert outcomes[1].security.mx_security == "mta-sts"
        names.table.clear()
        outcomes = yield self.send(["a@there.test"], status=Status.INSECURE, policies=policies)
        assert isinstance(outcomes[0], Delivered), "from memory"
        assert web.count("there.test") == 2

    def test_nonsense_is_refused_at_once(self):
        """Addresses that are none, and lines that do not end with CRLF."""
        resolver = FakeResolver()
        with self.assertRaises(AddressError):
            requiretls_mta.send_mail(reactor, resolver, "me@here.test", ["nobody"], MESSAGE)
        with self.assertRaises(ValueError):
            requiretls_mta.send_mail(reactor, resolver, "me@here.test", ["a@b.test"], b"x\n")
