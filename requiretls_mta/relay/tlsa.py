"""Looking up a host's TLSA records (RFC 7672 2.2.2, 2.2.3): only where DNSSEC vouches for what leads to them."""

from __future__ import annotations

from collections.abc import Sequence

from requiretls_mta.dns.answer import Answer, Resolver, Status
from requiretls_mta.message.reply import quote
from requiretls_mta.relay.route import Host, HostAddress
from requiretls_mta.tls.dane import NO_RECORDS, TLSA, Record, published
from requiretls_mta.tls.names import as_ip, is_host_name


async def find_tlsa(resolver: Resolver, host: Host, addresses: Sequence[HostAddress]) -> TLSA:
    """What a host that was found at these addresses publishes; empty where DANE does not apply."""
    if host.is_socket or as_ip(host.name) is not None:
        return NO_RECORDS
    secure = next((address for address in addresses if address.secure), None)
    if secure is not None:
        bases = tuple(dict.fromkeys([secure.canonical or host.name, host.name]))
    elif any(address.canonical not in ("", host.name) for address in addresses):
        # The alias may stand in a signed zone, though its target does not.
        alias = await resolver.resolve(host.name, "CNAME")
        if alias.is_failure:
            return TLSA(base=host.name, problem=_problem(alias))
        bases = (host.name,) if alias.is_secure and alias.exists else ()
    else:
        # Name servers of unsigned zones that choke on TLSA must not stop mail.
        bases = ()
    for base in bases:
        name = f"_{host.port}._tcp.{base}"
        if not is_host_name(base) or len(name) > 253:
            continue
        answer = await resolver.resolve(name, "TLSA")
        if answer.is_failure:
            return TLSA(base=base, problem=_problem(answer))
        # Should the name of the records be an alias: the base domain remains what it is.
        if answer.is_secure and answer.exists:
            return published(base, [Record.read(record.to_wire() or b"") for record in answer.records])
    return NO_RECORDS


def _problem(answer: Answer) -> str:
    reason = "they do not verify (DNSSEC bogus)" if answer.status is Status.BOGUS else answer.detail or answer.rcode
    return f"{quote(answer.name)}: {quote(reason)}"
