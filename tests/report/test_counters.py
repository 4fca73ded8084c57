"""P07: what became of promises is counted, by outcome and reason."""

from requiretls_mta.report.counters import MOST, Counters

EMPTY = """\
# HELP requiretls_mta_requiretls_total Outcomes of attempts of messages with REQUIRETLS, by recipient.
# TYPE requiretls_mta_requiretls_total counter
# HELP requiretls_mta_tls_required_no_total The same of messages with TLS-Required: No.
# TYPE requiretls_mta_tls_required_no_total counter
"""


def counted(*events):
    counters = Counters()
    for event, tag, reply in events:
        counters.emit(event, requiretls=tag, reply=reply, queue_id="x")
    return [line for line in counters.text().splitlines() if not line.startswith("#")]


def test_p07_tagged_messages_are_counted():
    """By what the sender asked for, what came of it, and the status that says why."""
    assert counted(
        ("delivered", "required", "250 2.0.0 Ok"),
        ("bounced", "required", "550 5.7.30 mx.a.test: no REQUIRETLS"),
        ("bounced", "required", "550 5.7.30 mx.b.test: no REQUIRETLS"),
        ("bounced", "required", "550 5.7.10 no TLS"),
        ("deferred", "optional", "421 go away"),
        ("delivered", None, "250 2.0.0 Ok"),
        ("queued", "required", None),
        ("unsettled", "required", "250 2.0.0 Ok"),
    ) == [
        'requiretls_mta_requiretls_total{outcome="bounced",reason="5.7.10"} 1',
        'requiretls_mta_requiretls_total{outcome="bounced",reason="5.7.30"} 2',
        'requiretls_mta_requiretls_total{outcome="delivered",reason="2.0.0"} 1',
        'requiretls_mta_tls_required_no_total{outcome="deferred",reason="none"} 1',
    ]


def test_nothing_yet():
    """The names are there from the start, as a collector expects."""
    assert Counters().text() == EMPTY


def test_what_servers_say_makes_no_endless_list():
    """Labels are bounded; what is one too many is counted as something else."""
    lines = counted(*[("bounced", "required", f"550 5.{n // 999}.{n % 999} x") for n in range(MOST + 500)])
    assert len(lines) == MOST + 1
    assert 'requiretls_mta_requiretls_total{outcome="bounced",reason="other"} 500' in lines


def test_a_reason_is_a_status_or_nothing():
    """No text of a stranger becomes a label."""
    assert counted(("bounced", "required", '550 5.1.1"} 1\nevil 2')) == [
        'requiretls_mta_requiretls_total{outcome="bounced",reason="none"} 1'
    ]
