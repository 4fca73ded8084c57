"""Giving a queued message up while no service runs, as `relay.schedule` does it while one does."""

from __future__ import annotations

import random
import time

from requiretls_mta.message.ports import Trace
from requiretls_mta.queue.changes import encode_settlement
from requiretls_mta.queue.shard import Shard
from requiretls_mta.receive.admission import to_all
from requiretls_mta.relay.settling import conclude, given_up
from requiretls_mta.report.dsn import Reports
from requiretls_mta.service.policies import Policies


def give_up(shard: Shard, message_id: str, policies: Policies, trace: Trace) -> bool:
    """End a message at the operator's word, and put its report into the queue; False when there is none, or no report.

    `policies` with what stands in files. Raises what the shard raises; then nothing has happened.
    """
    lease = shard.lease(message_id)
    if lease is None:
        return False
    reports = Reports(settings=lambda: policies.reports, new_id=shard.new_id, wall=time.time)
    ending = conclude(
        lease,
        given_up(lease),
        lambda message, told: to_all(message, reports(message, told), policies.receive, shard.new_id),
        now=time.time(),
        retry=policies.schedule.retry,
        rng=random.SystemRandom(),
    )
    (trouble,) = shard.apply([encode_settlement(ending.settlement, shard.files.folder, shard.settings.row_limit)])
    if trouble is not None:
        raise trouble
    ending.tell(trace, None, trace)
    return ending.is_final
