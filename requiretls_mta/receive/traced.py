"""What the trace is told of a message that has come in: by which session, checked how, and what was said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from requiretls_mta.checks.interfaces import Verdict
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.flat_json import write_object
from requiretls_mta.message.header import message_id
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.interfaces import Session

_quoted = encode_basestring_ascii


def reception(session: Session, header: bytes, verdicts: Sequence[Verdict], recipients: int, answer: Reply) -> str:
    """For `message.birth`: `message_id`, `session`, `checks` and `transcript`, where there is such a thing.

    `recipients` is how many were accepted, `answer` what is about to be said of the message.
    """
    text = f',"session":{_session(session)}'
    if (known_as := message_id(header)) is not None:
        text += f',"message_id":{_quoted(known_as)}'
    if verdicts:
        text += f',"checks":{json.dumps([one for verdict in verdicts for one in _results(verdict)])}'
    if session.transcript is not None:
        # RFC 2033 4.2: in LMTP one reply for each recipient.
        answers = [answer.wire] * (recipients if session.service == "lmtp" else 1)
        text += f',"transcript":{_quoted(session.transcript.transaction(answers))}'
    return text


def _results(verdict: Verdict) -> list[dict[str, Any]]:
    return [
        {"method": result.method, "result": result.result, "text": show_result(result, utf8=True)}
        for result in verdict.results
    ]


def _session(session: Session) -> str:
    """As JSON; written once for all the messages that a session brings."""
    transcript = session.transcript
    if transcript is None:
        return _described(session)
    facts = (session.helo, session.protocol, session.user)
    if transcript.kept is None or transcript.kept[0] != facts:
        transcript.kept = (facts, _described(session))
    return transcript.kept[1]


def _described(session: Session) -> str:
    peer, tls = session.peer, session.tls
    fields = {
        "id": session.id,
        "client": peer.address,
        "port": peer.port,
        "listener": peer.listener,
        "service": session.service,
        "helo": session.helo,
        "protocol": session.protocol,
        "user": session.user,
        "tls_version": tls.version if tls else None,
        "cipher": tls.cipher if tls else None,
        "transcript": session.transcript.opening if session.transcript is not None else None,
    }
    return write_object({name: value for name, value in fields.items() if value is not None})
