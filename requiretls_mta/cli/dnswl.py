"""`requiretls-mta dnswl`: what whitelists say of an address, and whether a list can be believed."""

from __future__ import annotations

import ipaddress
import json
import sys
from typing import Any

import click
from dns.rdtypes.ANY.TXT import TXT
from twisted.internet.defer import gatherResults

from requiretls_mta.checks.dnswl import Whitelist
from requiretls_mta.checks.dnswl_rules import (
    ClientIP,
    Finding,
    ListSettings,
    examine,
    query_name,
    report,
    selftest_names,
    tested,
)
from requiretls_mta.checks.interfaces import Tools
from requiretls_mta.cli.common import DONE, NO, USAGE, config_options, configuration, fail, printable
from requiretls_mta.cli.running import run
from requiretls_mta.dns.answer import Answer, Resolver
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.reply import quote
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_errors import Refused
from requiretls_mta.service.config_sections import DNSWL
from requiretls_mta.service.config_types import ListZone, parse_domain
from requiretls_mta.service.policies import list_settings

QUOTA = "Lists count queries for each resolver: ask through one of your own, not through a public one."


@click.command()
@click.argument("address", required=False, metavar="IP")
@click.option("--zone", metavar="ZONE", help="Ask this list, configured or not; default: all that are configured.")
@click.option("--check-zone", is_flag=True, help="Test the list by its entries of RFC 5782 instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@config_options
@click.pass_context
def dnswl(context: click.Context, *, address: str | None, zone: str | None, check_zone: bool, as_json: bool) -> None:
    """Look IP up in whitelists (status 1: none says pass), or test a list (status 1: it cannot be believed)."""
    config = configuration(context)
    if check_zone:
        if zone is None or address is not None:
            fail(USAGE, "--check-zone needs --zone, and no IP")
        (settings,) = _lists(config, zone)
        tested_list = run(config, lambda tools: test(tools.resolver, settings))
        click.echo(json.dumps(tested_list) if as_json else printable(_show_test(tested_list)))
        sys.exit(DONE if tested_list["healthy"] else NO)
    client = _client(address)
    lists = _lists(config, zone)
    found = run(config, lambda tools: look_up(tools, client, lists))
    click.echo(json.dumps(found) if as_json else printable("\n".join(map(_show_list, found["lists"]))))
    sys.exit(DONE if any(entry["result"] == "pass" for entry in found["lists"]) else NO)


async def look_up(tools: Tools, client: ClientIP, lists: list[ListSettings]) -> dict[str, Any]:
    """What each list says, with the answers behind it."""
    whitelists = [Whitelist(settings, tools) for settings in lists]
    findings = await gatherResults([one.look_up(client) for one in whitelists])
    entries = []
    for one, finding in zip(whitelists, findings, strict=True):
        one.health.stop()
        name = query_name(client, one.settings.zone)
        answers = await gatherResults([tools.resolver.resolve(name, rdtype) for rdtype in ("A", "TXT")])
        entries.append(_list_entry(one.settings, finding, answers))
    return {"address": str(client), "lists": entries}


async def test(resolver: Resolver, settings: ListSettings) -> dict[str, Any]:
    """What each test entry of a list says, and what they come to."""
    entries = selftest_names(settings.zone)
    names = entries.asked(settings)
    answers = await gatherResults([resolver.resolve(name, "A") for name in names])
    root = await resolver.resolve(".", "SOA")
    examined = examine(dict(zip(names, answers, strict=True)), entries, settings)
    listed = (entries.listed, entries.listed_v6)
    return {
        "zone": settings.display_zone,
        "healthy": all(finding.result == "pass" for finding in examined.values()),
        "selftest": settings.selftest,
        "validating": root.is_secure,
        "clients": {
            f"ipv{version}": {"result": finding.result, "reason": finding.reason}
            for version, finding in examined.items()
        },
        "entries": [
            {
                "name": name.removesuffix(f"{settings.zone}.") + settings.display_zone,
                "expected": _expected(name in listed, settings),
                "ok": tested(name, answer, entries, settings).result == "pass",
                "answer": _answer(answer, settings),
            }
            for name, answer in zip(names, answers, strict=True)
        ],
    }


def _expected(listed: bool, settings: ListSettings) -> str:
    if settings.selftest == "off":
        return "answered"
    return "listed" if listed else "not listed"


def _client(text: str | None) -> ClientIP:
    try:
        client = ipaddress.ip_address(text or "")
    except ValueError:
        fail(USAGE, "an IP address is needed, or --check-zone with --zone")
    mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
    return mapped or client


def _lists(config: Config, zone: str | None) -> list[ListSettings]:
    if zone is None:
        if not config.dnswl:
            fail(USAGE, "no list is configured; say --zone ZONE")
        return [list_settings(entry) for entry in config.dnswl]
    try:
        name = parse_domain(zone.rstrip("."))
    except Refused as error:
        fail(USAGE, f"--zone {zone}: {error.allowed} is needed")
    known = (entry for entry in config.dnswl if name in (entry.zone, entry.display_zone))
    return [list_settings(next(known, None) or DNSWL(zone=ListZone(name)))]


def _list_entry(settings: ListSettings, finding: Finding, answers: list[Answer]) -> dict[str, Any]:
    return {
        "zone": settings.display_zone,
        "result": finding.result,
        "reason": finding.reason,
        "codes": [str(code) for code in finding.codes],
        "text": finding.text.value if finding.text else None,
        "sec": finding.sec,
        "overrides_spf": finding.overrides_spf(settings),
        "report": show_result(report(finding, settings), utf8=True),
        "answers": {answer.rdtype: _answer(answer, settings) for answer in answers},
    }


def _answer(answer: Answer, settings: ListSettings) -> dict[str, Any]:
    """An answer as it came; but a text that tells the zone behind `display_zone` is not shown."""
    records = [_record(record) for record in answer.records]
    return {
        "rcode": answer.rcode,
        "records": ["(names the zone)" if settings.is_betrayed_by(one) else one for one in records],
        "secure": answer.is_secure,
        "ttl": answer.ttl,
        "server": answer.server,
        "detail": answer.detail,
    }


def _record(record: Any) -> str:
    return quote(b"".join(record.strings) if isinstance(record, TXT) else str(record))


def _show_list(entry: dict[str, Any]) -> str:
    lines = [f"{entry['zone']}: {entry['result']}" + (f" ({entry['reason']})" if entry["reason"] else "")]
    lines += [f"    {rdtype:4} {_show_answer(answer)}" for rdtype, answer in entry["answers"].items()]
    lines.append(f"    reported as: {entry['report']}")
    if entry["reason"] in ("refused", "over-quota"):
        lines.append(f"    {QUOTA}")
    return "\n".join(lines)


def _show_test(found: dict[str, Any]) -> str:
    results = {finding["result"] for finding in found["clients"].values()}
    state = "cannot be believed" if "permerror" in results else "cannot be tested now"
    lines = [f"{found['zone']}: {'good' if found['healthy'] else state}"]
    for entry in found["entries"]:
        mark = "ok " if entry["ok"] else "NOT"
        lines.append(f"    {mark} {entry['name']} (to be {entry['expected']}): {_show_answer(entry['answer'])}")
    for clients, finding in found["clients"].items():
        why = f" ({finding['reason']})" if finding["reason"] else ""
        lines.append(f"    for {clients} clients: {finding['result']}{why}")
    lines.append(f"    the resolver validates: {'yes' if found['validating'] else 'no, or it is not believed'}")
    if found["selftest"] == "off":
        lines.append("    this list has no test entries; it is only asked whether it answers")
    if any(finding["reason"] in ("refused", "over-quota") for finding in found["clients"].values()):
        lines.append(f"    {QUOTA}")
    return "\n".join(lines)


def _show_answer(answer: dict[str, Any]) -> str:
    said = ", ".join(answer["records"]) or (answer["rcode"] if answer["rcode"] != "NOERROR" else "nothing")
    if answer["secure"]:
        said += " [secure]"
    return said + (f" ({answer['detail']})" if answer["detail"] else "")
