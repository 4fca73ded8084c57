"""Delivery only to those who have a mailbox: each recipient keeps its own outcome, in their order."""

from twisted.internet.defer import Deferred, succeed

from requiretls_mta.delivery.known import KnownMailboxes
from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.message.reply import CANNOT_VERIFY, UNKNOWN_RECIPIENT, Reply

OK = Reply(250, "2.0.0", "ok")
ASKED = {
    "no": UNKNOWN_RECIPIENT,
    "later": succeed(CANNOT_VERIFY),
    "slow": Deferred(),
    "ann": None,
    "bob": succeed(None),
}


class Boxes:
    """Takes everything."""

    def __init__(self):
        self.given = []

    def deliver(self, message, recipients):
        self.given.append([r.address.local for r in recipients])
        return succeed([Delivered(recipient=r, reply=OK, host="this") for r in recipients])


def deliver(boxes, *names):
    recipients = [Recipient(Address(name, "here.test")) for name in names]
    found = []
    KnownMailboxes(boxes, lambda address: ASKED[address.local]).deliver(None, recipients).addCallback(found.append)
    return found, recipients


def test_each_has_an_outcome_of_its_own():
    """5.1.1 for nobody, later where it cannot be told, the mailbox for the others, in one go."""
    boxes = Boxes()
    (outcomes,), recipients = deliver(boxes, "ann", "no", "later", "bob")
    assert [type(outcome) for outcome in outcomes] == [Delivered, Failed, Postponed, Delivered]
    assert [outcome.recipient for outcome in outcomes] == recipients
    assert boxes.given == [["ann", "bob"]]


def test_without_a_mailbox_nothing_is_delivered():
    """And it is waited for who answers late."""
    boxes = Boxes()
    (outcomes,), _ = deliver(boxes, "no")
    assert outcomes[0].reply == UNKNOWN_RECIPIENT and boxes.given == []
    found, _ = deliver(boxes, "slow")
    assert found == []
    ASKED["slow"].callback(None)
    assert isinstance(found[0][0], Delivered) and boxes.given == [["slow"]]
