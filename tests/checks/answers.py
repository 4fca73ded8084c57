"""Answers of the DNS, as the resolver gives them."""

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from requiretls_mta.dns.answer import Answer, Status


def answer(rdtype, *data, secure=False, status=None, rcode="NOERROR", ede=(), name="x.list.dnswl.example."):
    """One answer; data as in a zone file, octets for TXT as they are."""
    return Answer(
        name=name,
        rdtype=rdtype,
        status=status or (Status.SECURE if secure else Status.INSECURE),
        rcode=rcode,
        records=tuple(
            dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(rdtype), zone_text(d)) for d in data
        ),
        canonical=name,
        ttl=60,
        ede=ede,
    )


def failure(rcode, *, status=Status.FAILURE, ede=()):
    """No answer."""
    return answer("A", status=status, rcode=rcode, ede=ede)


def zone_text(data):
    """Octets, or several strings of them, in the form of a zone file."""
    if isinstance(data, str):
        return data
    strings = data if isinstance(data, tuple) else (data,)
    return " ".join('"' + "".join(f"\\{octet:03}" for octet in string) + '"' for string in strings)
