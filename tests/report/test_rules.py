"""RFC 3461 5.2 as a table: which outcome is told, under which NOTIFY, and by which action."""

import pytest

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Notify, Recipient
from requiretls_mta.message.outcome import Deferred, Delivered, Failed
from requiretls_mta.message.reply import Reply
from requiretls_mta.report.dsn_rules import Action, Told, action_of, is_wanted

REPLY = Reply(250, "2.0.0", "ok")
TO_US = {"in_mailbox": True}
TO_DSN = {"dsn_relayed": True}


def outcome(kind, notify, **more):
    words = None if notify is None else frozenset(map(Notify, notify.split(",")))
    return kind(recipient=Recipient(Address("r", "x.test"), words), reply=REPLY, host="mx", **more)


@pytest.mark.parametrize(
    ("notify", "mailbox", "plain_host", "failure", "delay"),
    [
        (None, None, None, "failed", "delayed"),
        ("NEVER", None, None, None, None),
        ("SUCCESS", "delivered", "relayed", None, None),
        ("FAILURE", None, None, "failed", None),
        ("DELAY", None, None, None, "delayed"),
        ("SUCCESS,FAILURE,DELAY", "delivered", "relayed", "failed", "delayed"),
    ],
)
def test_what_is_told(notify, mailbox, plain_host, failure, delay):
    """5.2.1 to 5.2.6, column by column."""

    def action(kind, *, late=False, **more):
        found = action_of(result := outcome(kind, notify, **more), late=late)
        told = found and is_wanted(Told(action=found, outcome=result))
        return found.value if told else None

    assert action(Delivered, **TO_US) == mailbox
    assert action(Delivered) == plain_host
    # Whoever speaks DSN reports itself, an LMTP server too.
    assert action(Delivered, **TO_DSN) is action(Delivered, **TO_DSN, **TO_US) is None
    assert action(Failed) == failure
    assert action(Deferred, late=True) == delay
    assert action(Deferred) is None


def test_a_failure_that_nobody_wants_is_still_one():
    """Whoever ends reports that fail must hear of it."""
    assert action_of(outcome(Failed, "NEVER"), late=False) is Action.FAILED
