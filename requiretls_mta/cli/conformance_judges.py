"""The judges of single checks: what is offered, what TLS is like, what becomes of octets behind STARTTLS."""

from __future__ import annotations

from collections.abc import Sequence

from requiretls_mta.cli.conformance_rules import Answer, Finding, Judge, Kind, Seen, Verdict
from requiretls_mta.message.reply import quote

PASS, FAIL, WARNING, NOT_TESTED = Verdict


def answers_ehlo(seen: Seen) -> Finding:
    """Whether this is an SMTP server with extensions at all."""
    if not seen.answers:
        return _no_start(seen)
    answer = seen.answers[0]
    return Finding(PASS if answer.code == 250 else FAIL, str(answer))


def offers(keyword: str) -> Judge:
    """The reply to EHLO lists the keyword, parameters or not."""

    def judge(seen: Seen) -> Finding:
        if not seen.answers:
            return Finding(NOT_TESTED, seen.why)
        found = _lines_of(seen.answers[0], keyword)
        return Finding(PASS, found[0]) if found else Finding(FAIL, _listed(seen.answers[0]))

    return judge


def offers_no(keyword: str) -> Judge:
    """The reply to EHLO does not list it."""

    def judge(seen: Seen) -> Finding:
        if not seen.answers:
            return Finding(NOT_TESTED, seen.why)
        found = _lines_of(seen.answers[0], keyword)
        return Finding(FAIL, found[0]) if found else Finding(PASS, _listed(seen.answers[0]))

    return judge


def offers_bare(seen: Seen) -> Finding:
    """REQUIRETLS stands in one line, and alone in it."""
    if not seen.answers:
        return Finding(NOT_TESTED, seen.why)
    found = _lines_of(seen.answers[0], "REQUIRETLS")
    bare = len(found) == 1 and found[0].upper() == "REQUIRETLS"
    return Finding(PASS if bare else FAIL, quote(", ".join(found)) or "not listed")


def has_tls(seen: Seen) -> Finding:
    """The handshake came about, with what is safe today."""
    if not seen.started or seen.tls is None:
        return _no_start(seen)
    return Finding(PASS, f"{seen.tls.version}, {seen.tls.cipher}")


def refuses_old_tls(seen: Seen) -> Finding:
    """RFC 9325 3.1.1; a handshake that fails because our own library can do nothing so old proves nothing."""
    if seen.tls is not None:
        return Finding(WARNING, f"{seen.tls.version}, {seen.tls.cipher}")
    hears_no = seen.trouble is not None and seen.trouble.kind in (Kind.NO_TLS, Kind.CLOSED)
    own = "no protocols available" in seen.why
    return Finding(PASS if hears_no and not own else NOT_TESTED, seen.why)


def is_trusted(seen: Seen) -> Finding:
    """The chain leads to a trusted root."""
    if seen.tls is None:
        return Finding(NOT_TESTED, seen.why)
    if seen.tls.chain_errors:
        return Finding(WARNING, "; ".join(seen.tls.chain_errors))
    certificates = "one certificate" if len(seen.tls.chain) == 1 else f"{len(seen.tls.chain)} certificates"
    return Finding(PASS, f"{certificates}, verified to a trusted root")


def is_named(seen: Seen) -> Finding:
    """The certificate bears the host's name."""
    if seen.tls is None:
        return Finding(NOT_TESTED, seen.why)
    return Finding(WARNING, seen.tls.name_error) if seen.tls.name_error else Finding(PASS, "it does")


def refuses_in_clear(seen: Seen) -> Finding:
    """EHLO, MAIL with REQUIRETLS; when that is refused, MAIL without: whether it was for the parameter."""
    if len(seen.answers) < 2 or seen.answers[0].code != 250:
        return Finding(NOT_TESTED, seen.why if len(seen.answers) < 2 else str(seen.answers[0]))
    tagged, *control = seen.answers[1:]
    kind = tagged.code // 100
    if kind in (2, 3):
        return Finding(FAIL, str(tagged))
    if kind == 4:
        return Finding(WARNING, f"refused, but only for now: {tagged}")
    # A server may want TLS for all mail (RFC 8689 8.4); one that wants another sender says nothing.
    if not control or (control[0].code // 100 != 2 and control[0].code != 530):
        return Finding(NOT_TESTED, str(control[0]) if control else seen.why)
    return Finding(PASS, str(tagged))


def forgets_transaction(seen: Seen) -> Finding:
    """EHLO, MAIL in the clear, STARTTLS, RCPT inside TLS: STARTTLS refused, or RCPT for want of MAIL."""
    if len(seen.answers) < 3 or seen.answers[1].code // 100 != 2:
        return Finding(NOT_TESTED, str(seen.answers[1]) if len(seen.answers) > 1 else seen.why)
    last = seen.answers[-1]
    if len(seen.answers) == 3:
        return Finding(NOT_TESTED, seen.why) if last.code == 220 else Finding(PASS, str(last))
    if last.code // 100 == 2:
        return Finding(FAIL, str(last))
    # Any other refusal may be one of the recipient.
    return Finding(PASS if last.code == 503 else NOT_TESTED, str(last))


def forgets_ehlo(seen: Seen) -> Finding:
    """MAIL, EHLO, STARTTLS; inside TLS MAIL with REQUIRETLS, without a new EHLO.

    Whoever refused the first MAIL for want of an EHLO and takes the last one remembers what it has to forget; whoever
    takes both is only liberal.
    """
    if len(seen.answers) < 4:
        hung_up = seen.tls is not None and seen.trouble is not None and seen.trouble.kind is Kind.CLOSED
        return Finding(WARNING if hung_up else NOT_TESTED, seen.why)
    before, last = seen.answers[0], seen.answers[3]
    kind, text = last.code // 100, str(last)
    if kind == 2:
        return Finding(FAIL if before.code == 503 else WARNING, f"{text} (before any EHLO: {before.heard.reply})")
    return Finding(WARNING if kind == 4 else PASS, text)


def executes_nothing(seen: Seen) -> Finding:
    """EHLO, STARTTLS with RSET behind it; inside TLS EHLO and QUIT. A reply too many is RSET's."""
    early = _before_tls(seen)
    if early is not None:
        return early
    inside = seen.answers[2:]
    unasked = seen.trouble is not None and seen.trouble.kind is Kind.UNASKED
    if len(inside) < 2 and not unasked:
        return _hung_up(seen)
    if unasked or inside[1].code != 221:
        return Finding(FAIL, f"RSET, sent in the clear, was executed: the first reply inside TLS was {_reply(inside)}")
    return Finding(PASS, "the handshake succeeded, and what stood behind STARTTLS was thrown away")


def joins_nothing(seen: Seen) -> Finding:
    """EHLO, STARTTLS with `QUI` behind it; inside TLS `T`. A good-bye means that the two were joined."""
    early = _before_tls(seen)
    if early is not None:
        return early
    if len(seen.answers) < 3:
        return _hung_up(seen)
    last = seen.answers[2]
    if last.code == 221:
        return Finding(FAIL, f"QUI, sent in the clear, was joined with T: {last.heard.reply}")
    return Finding(PASS, f"the handshake succeeded, and what stood behind STARTTLS was thrown away: {last}")


def takes_message(seen: Seen) -> Finding:
    """MAIL, RCPT, DATA and a message."""
    if len(seen.answers) == 4 and seen.answers[3].code // 100 == 2:
        return Finding(PASS, f"one message was sent: {seen.answers[3].heard.reply}")
    if seen.answers and seen.answers[-1].code // 100 in (4, 5):
        permanent = len(seen.answers) == 4 and seen.answers[3].code // 100 == 5
        return Finding(FAIL if permanent else NOT_TESTED, str(seen.answers[-1]))
    return Finding(NOT_TESTED, seen.why)


def _no_start(seen: Seen) -> Finding:
    unwilling = seen.trouble is not None and seen.trouble.kind in (Kind.BUSY, Kind.REFUSED)
    return Finding(NOT_TESTED if unwilling else FAIL, seen.why)


def _lines_of(answer: Answer, keyword: str) -> list[str]:
    # Exact: XREQUIRETLS, AUTH REQUIRETLS and a server's name are not the keyword (RFC 5321 4.1.1.1).
    return [quote(" ".join(words)) for words in answer.keywords if words and words[0].upper() == keyword]


def _listed(answer: Answer) -> str:
    return quote("listed: " + (", ".join(" ".join(words) for words in answer.keywords) or "nothing"))


def _before_tls(seen: Seen) -> Finding | None:
    """The finding when no handshake followed STARTTLS: then nothing from before it reached the other side."""
    if seen.tls is not None:
        return None
    if not seen.answers or (seen.trouble is not None and seen.trouble.kind is Kind.TIMED_OUT):
        return Finding(NOT_TESTED, seen.why)
    refused = len(seen.answers) == 2 and seen.answers[1].code != 220
    return Finding(PASS, str(seen.answers[1]) if refused else f"no handshake: {seen.why}")


def _hung_up(seen: Seen) -> Finding:
    closed = seen.trouble is not None and seen.trouble.kind is Kind.CLOSED
    return Finding(PASS if closed else NOT_TESTED, f"after the handshake: {seen.why}")


def _reply(inside: Sequence[Answer]) -> str:
    return str(inside[0].heard.reply) if inside else "not EHLO's"
