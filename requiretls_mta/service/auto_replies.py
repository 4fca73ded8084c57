"""Automatic replies of one MTA, as far as a responder is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from requiretls_mta.queue.store import IQueueStore
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.responders import AutoReplies, load_responders
from requiretls_mta.report.answered import Answered
from requiretls_mta.service.config import Config
from requiretls_mta.service.policies import Policies


def auto_replies(
    reactor: Any,
    config: Config,
    *,
    store: IQueueStore,
    admission: Callable[[], Admission],
    policies: Callable[[], Policies],
    wall: Callable[[], float],
) -> tuple[AutoReplies, Answered] | tuple[None, None]:
    """What the schedule calls, and its memory, which is to be started and stopped."""
    responders = load_responders()
    if not responders:
        return None, None
    answered = Answered(reactor, config.state / "shared" / "answered.db", wall)
    replies = AutoReplies(
        responders=responders,
        memory=answered,
        settings=lambda: policies().receive,
        profile=lambda: policies().reports.profile,
        to_all=lambda about, replies: admission().to_all(about, replies),
        new_id=store.new_id,
        wall=wall,
    )
    return replies, answered
