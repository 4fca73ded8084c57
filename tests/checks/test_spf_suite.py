"""The public test suite of RFC 7208 (openspf.org, release 2014.04; see rfc7208/rfc7208-tests.LICENSE), driven whole."""

import ipaddress
from pathlib import Path

import attrs
import dns.name
import pytest
import yaml

from requiretls_mta.checks.spf import identity_of
from requiretls_mta.checks.spf_rules import check_host
from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import Address
from tests.checks.answers import answer, failure

SUITE = Path(__file__).parent / "rfc7208" / "rfc7208-tests.yml"
RECEIVER = "unknown"


def scenarios():
    for scenario in yaml.safe_load_all(SUITE.read_text()):
        for name, test in scenario["tests"].items():
            yield pytest.param(test, Zone(scenario["zonedata"]), id=name)


class Zone:
    """The zone data of a scenario; as the suite has it, SPF records stand for TXT ones where these are missing."""

    def __init__(self, data):
        self.data = {name.lower(): self._records(records) for name, records in data.items()}

    @staticmethod
    def _records(records):
        found = [record if isinstance(record, str) else next(iter(record.items())) for record in records]
        has_txt = any(record[0] == "TXT" for record in found if not isinstance(record, str))
        found = [("TXT", r[1]) if r[0] == "SPF" and not has_txt else r for r in found]
        return [r for r in found if isinstance(r, str) or r[1] != "NONE"]

    def resolve(self, question, depth=0):
        name, rdtype = question
        records = self.data.get(plain(name).lower())
        if records is None:
            return answer(rdtype, rcode="NXDOMAIN", name=name)
        own = [r[1] for r in records if not isinstance(r, str) and r[0] == rdtype]
        if (not own and "TIMEOUT" in records) or "TIMEOUT" in own:
            return attrs.evolve(failure("TIMEOUT"), rdtype=rdtype)
        alias = [r[1] for r in records if not isinstance(r, str) and r[0] == "CNAME"]
        if alias and not own:
            if depth > 8:
                return attrs.evolve(failure("MALFORMED", status=Status.FAILURE), rdtype=rdtype)
            return self.resolve((alias[0].rstrip(".") + ".", rdtype), depth + 1)
        return answer(rdtype, *(self._data(rdtype, value) for value in own), name=name)

    @staticmethod
    def _data(rdtype, value):
        if rdtype == "MX":
            return f"{value[0]} {value[1].rstrip('.')}."
        if rdtype == "PTR":
            return f"{value.rstrip('.')}."
        if rdtype == "TXT":
            return tuple(s.encode() for s in ([value] if isinstance(value, str) else value)) or (b"",)
        return value


def plain(name):
    """The name without its last dot and escapes."""
    return ".".join(label.decode("utf-8", "replace") for label in dns.name.from_text(name).labels[:-1])


def evaluate(identity, zone):
    run, answers = check_host(identity), None
    try:
        while True:
            answers = tuple(map(zone.resolve, run.send(answers)))
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize(("test", "zone"), list(scenarios()))
def test_rfc7208(test, zone):
    """Each test of the suite: its result is one of those it allows, its explanation the one it wants."""
    local, _, domain = str(test.get("mailfrom") or "").rpartition("@")
    identity = identity_of(
        ipaddress.ip_address(test["host"]),
        Address(local, domain) if domain else None,
        test["helo"],
        receiver=RECEIVER,
    )
    outcome = evaluate(identity, zone)
    wanted = test["result"]
    assert outcome.result in ([wanted] if isinstance(wanted, str) else wanted), outcome
    explanation = test.get("explanation")
    if explanation is not None:
        assert (outcome.explanation or "DEFAULT") == explanation
