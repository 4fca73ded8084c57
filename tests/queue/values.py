"""Messages to put into a queue, and what became of them."""

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.outcome import Deferred, Delivered, Failed
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue.store import Settled, Settlement

NOW = 1_800_000_000.0
OCTETS = b"Subject: a\r\n\r\nb\r\n"
OK = Reply(250, "2.0.0", "Ok")
LATER = Reply(451, "4.3.0", "Later")
NEVER = Reply(550, "5.1.1", "No such user")


def content_of(octets):
    scanner = ContentScanner(1 << 20)
    scanner.feed(octets)
    return scanner.finish()


def make_message(message_id, *, recipients=1, octets=OCTETS, received=NOW, body=None, tag=Tag.REQUIRED, **more):
    people = tuple(
        Recipient(Address(f"r{n}", "example.net"), frozenset({Notify.FAILURE}), "rfc822;r") for n in range(recipients)
    )
    envelope = Envelope(
        sender=Address("a b", "example.org"), recipients=people, tag=tag, body="8BITMIME", ret="HDRS", envid="x+2By"
    )
    return Message(
        id=message_id,
        envelope=envelope,
        body=body or BytesBody(octets),
        content=content_of(octets),
        prepend=b"Received: by us\r\n",
        cuts=((0, 2),),
        received=received,
        listener="mx",
        **more,
    )


def outcome(entry, reply):
    kind = {2: Delivered, 4: Deferred, 5: Failed}[reply.code // 100]
    more = {"host": "mx.example.net"} if kind is Delivered else {}
    return kind(recipient=entry.recipient, reply=reply, **more)


def settlement(lease, reply=OK, *, again=None, offspring=(), only=None):
    """All entries of a lease (or those numbered in `only`) end alike; `again` is the time of the next attempt."""
    settled = tuple(
        Settled(
            number=entry.number,
            outcome=outcome(entry, reply),
            next_attempt=again or 0.0,
            final=again is None,
        )
        for entry in lease.entries
        if only is None or entry.number in only
    )
    return Settlement(lease=lease, settled=settled, offspring=offspring)


def sent(message):
    return b"".join(message.pieces())
