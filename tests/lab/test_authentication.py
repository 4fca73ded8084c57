"""A whole instance that asks who really sent it: SPF, DKIM and DMARC through unbound, a whitelist beside them."""

import socket
import subprocess

import pytest

from tests.checks.signing import KEY
from tests.lab.dns import Lab
from tests.lab.mta import MTA, free_port
from tests.lab.rbl import RBL
from tests.lab.require import need
from tests.lab.test_proxy import announced

ADDRESS = "127.0.0.50"
GOOD, FORWARDER, LOW, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.9"
TEST_ENTRY = "127.0.0.2 :127.0.10.0:"
LISTS = {
    "list.test": ([TEST_ENTRY, f"{FORWARDER} :127.0.5.3:fwd.test x", f"{LOW} :127.0.5.0:low.test x"], []),
    "quota.test": ([TEST_ENTRY, f"{STRANGER} :127.0.0.255:"], []),
}


def strings(record):
    return " ".join(f'"{record[i : i + 200].decode()}"' for i in range(0, len(record), 200))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with RBL(LISTS) as rbl, Lab(tmp_path_factory.mktemp("authentication")) as lab:
        for zone in LISTS:
            lab.zone(zone, [], signed=False, elsewhere=rbl.address)
        lab.zone("silent.test", [], signed=False, elsewhere=("127.0.0.1", 9))
        records = [
            f'@ TXT "v=spf1 a:mail.far.test ip4:{GOOD} -all exp=why.far.test"',
            "mail A 192.0.2.77",
            'why TXT "%{i} is no host of %{d}"',
            '_dmarc TXT "v=DMARC1; p=reject; sp=none"',
            f"s1._domainkey TXT {strings(KEY.record)}",
        ]
        lab.zone("far.test", records, signed=False)
        lab.zone("slow.test", ['@ TXT "v=spf1 include:silent.test -all"'], signed=False)
        lab.start()
        yield lab


CONFIG = """hostname = "mx.here.test"
authserv_id = "mta.here.test"
[listen.mx]
endpoint = ["haproxy:tcp:{mx}:interface={address}", "tcp:{plain}:interface={address}"]
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[access]
relay_from = ["198.51.100.0/24"]
[dns]
servers = ["{server}"]
timeout = "2s"
[spf]
action = "{action}"
[dmarc]
action = "{action}"
[iprev]
enabled = false
{lists}"""


def started(lab, folder, action, zones):
    mx, plain = free_port(ADDRESS), free_port(ADDRESS)
    lists = "".join(f'[[dnswl]]\nzone = "{z}"\noverride_spf = ["127.0.[2..15].[1..3]"]\n' for z in zones)
    host, port = lab.resolver_address
    text = CONFIG.format(
        mx=mx, plain=plain, address=ADDRESS, folder=folder, server=f"{host}:{port}", action=action, lists=lists
    )
    instance = MTA(folder, text, (ADDRESS, plain)).start()
    instance.mx = mx
    return instance


@pytest.fixture(scope="module")
def rejecting(tmp_path_factory, lab):
    instance = started(lab, tmp_path_factory.mktemp("rejecting"), "reject", ["list.test", "quota.test"])
    yield instance
    assert instance.stop() == 0
    assert "Traceback" not in instance.log.read_text()


@pytest.fixture(scope="module")
def annotating(tmp_path_factory, lab):
    instance = started(lab, tmp_path_factory.mktemp("annotating"), "annotate", [])
    yield instance
    assert instance.stop() == 0
    assert "Traceback" not in instance.log.read_text()


BODY = b"From: anna@other.test\r\nSubject: x\r\n\r\nbody\r\n"


def swaks(mta, client, to, *options, body=BODY, sender="anna@far.test"):
    file = mta.folder / f"{to}.eml"
    file.write_bytes(body.replace(b"\r\n", b"\n"))
    return subprocess.run(
        [
            need("swaks"), "--server", f"{ADDRESS}:{mta.mx}", "--from", sender, "--to", to, "--ehlo", "mail.fwd.test",
            "--data", f"@{file}", *announced(client), *options,
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def delivered(mta, client, to, **more):
    """The header of what arrives, unfolded, without Return-Path."""
    done = swaks(mta, client, to, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    (octets,) = mta.mail(to)
    header = octets.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    lines = header.replace(b"\n ", b" ").replace(b"\n\t", b" ").decode().split("\n")
    assert lines[0].startswith("Return-Path:")
    return lines[1:]


def test_a_host_of_the_domain(rejecting):
    """SPF passes; the fields stand in interface.md's order."""
    results, spf, received, *_ = delivered(rejecting, GOOD, "pass@here.test")
    assert results == (
        "Authentication-Results: mta.here.test; dnswl=none dns.zone=list.test dns.sec=na; "
        "dnswl=none dns.zone=quota.test dns.sec=na; spf=pass smtp.mailfrom=far.test; dkim=none; "
        "dmarc=none header.from=other.test"
    )
    assert spf == (
        "Received-SPF: pass (mta.here.test: domain of far.test designates 192.0.2.1 as permitted sender) "
        'client-ip=192.0.2.1; envelope-from="anna@far.test"; helo=mail.fwd.test; receiver=mta.here.test; '
        "identity=mailfrom; mechanism=ip4;"
    )
    assert received.startswith("Received: from mail.fwd.test ([192.0.2.1])")


def test_a_whitelisted_forwarder(rejecting):
    """77: taken, and the result stays what it is."""
    results, spf, *_ = delivered(rejecting, FORWARDER, "forwarded@here.test")
    assert "; spf=fail (not rejected: client is whitelisted) smtp.mailfrom=far.test;" in results
    assert 'dnswl=pass dns.zone=list.test dns.sec=na policy.ip=127.0.5.3 policy.txt="fwd.test x"' in results
    assert spf.startswith("Received-SPF: fail ")


@pytest.mark.parametrize("client", [STRANGER, LOW])
def test_a_stranger(rejecting, client):
    """78, 80, 81: not listed, over quota, listed with too little trust; the domain's own words come along."""
    done = swaks(rejecting, client, "x@here.test")
    assert done.returncode == 24  # no recipient was taken
    assert f"550-5.7.23 SPF: far.test does not let {client} send its mail" in done.stdout
    assert f"550 5.7.23 far.test explains: {client} is no host of far.test" in done.stdout


def test_the_postmaster_hears_from_a_stranger(rejecting):
    """RFC 5321 4.5.1."""
    results, *_ = delivered(rejecting, STRANGER, "postmaster@here.test")
    assert "; spf=fail smtp.mailfrom=far.test;" in results


def test_a_whitelist_opens_no_other_door(rejecting):
    """82, R60: relaying, and REQUIRETLS in the clear."""
    assert "550 5.7.1 Relaying denied" in swaks(rejecting, FORWARDER, "x@elsewhere.test").stdout
    with socket.create_connection((ADDRESS, rejecting.mx), 5) as connection, connection.makefile("rb") as replies:
        connection.sendall(f"PROXY TCP4 {FORWARDER} {ADDRESS} 4000 25\r\nHELP\r\n".encode())
        assert replies.readline().startswith(b"220 ") and replies.readline().startswith(b"214 ")
        connection.sendall(b"EHLO x.test\r\nMAIL FROM:<anna@far.test> REQUIRETLS\r\nQUIT\r\n")
        assert b"530 5.7.10 " in b"".join(replies)
    own_name = BODY.replace(b"other.test", b"far.test")
    done = swaks(rejecting, FORWARDER, "dmarc@here.test", body=own_name)
    assert "550 5.7.1 Email rejected per DMARC policy for far.test" in done.stdout


def test_an_answer_that_is_not_to_be_had(rejecting):
    """79: SPF's own; the include leads to a server that does not answer."""
    done = swaks(rejecting, STRANGER, "x@here.test", sender="anna@slow.test")
    assert "451 4.7.1 SPF cannot be evaluated now, try again later" in done.stdout


def test_a_list_that_does_not_answer_puts_off(lab, tmp_path):
    """79: it might have known the client; who passes SPF is not put off."""
    instance = started(lab, tmp_path, "reject", ["silent.test"])
    try:
        done = swaks(instance, STRANGER, "x@here.test")
        assert "451 4.7.1 SPF fails, and a whitelist that may know better cannot be asked now" in done.stdout
        assert swaks(instance, GOOD, "y@here.test").returncode == 0
    finally:
        assert instance.stop() == 0


SIGNED = b"From: Anna <anna@far.test>\r\nTo: bob@here.test\r\nSubject: signed\r\n\r\nHello\r\n"


def test_a_signature_speaks_for_the_domain(annotating):
    """76: with a forged field of ours, which the signature covers and nobody gets to see; DMARC passes by it."""
    forged = b"Authentication-Results: mta.here.test; spf=pass\r\n" + SIGNED
    names = [b"from", b"subject", b"authentication-results"]
    message = KEY.sign(forged, domain="far.test", include_headers=names)
    results, _, _, *rest = delivered(annotating, STRANGER, "signed@here.test", body=message, sender="b@other.test")
    begins = message.split(b" b=")[1].replace(b"\r\n ", b"")[:8].decode()
    value = begins if "/" not in begins and "=" not in begins else f'"{begins}"'
    assert results == (
        "Authentication-Results: mta.here.test; spf=none smtp.mailfrom=other.test; "
        f"dkim=pass header.d=far.test header.s=s1 header.a=rsa-sha256 header.b={value}; "
        "dmarc=pass header.from=far.test"
    )
    assert not [line for line in rest if line.startswith("Authentication-Results")]


def test_a_large_message_is_verified(annotating):
    """Ten mebibytes, from the file that they lie in."""
    message = KEY.sign(SIGNED + b"0123456789 " * 6 + b"\r\n" + (b"x" * 70 + b"\r\n") * 145_000, domain="far.test")
    results, *_ = delivered(annotating, STRANGER, "large@here.test", body=message)
    assert "dkim=pass" in results and "dmarc=pass" in results


def test_what_was_changed_on_the_way(annotating):
    """Annotated: it arrives, and says what is wrong with it."""
    message = KEY.sign(SIGNED, domain="far.test").replace(b"Hello", b"Hallo")
    results, *_ = delivered(annotating, STRANGER, "changed@here.test", body=message)
    assert "spf=fail smtp.mailfrom=far.test;" in results
    assert 'dkim=fail reason="body hash did not verify" header.d=far.test' in results
    assert results.endswith("dmarc=fail (p=reject) header.from=far.test")


def test_who_may_relay_is_not_asked_about(rejecting):
    """Nothing is looked up for a trusted client."""
    first, *_ = delivered(rejecting, "198.51.100.7", "trusted@here.test")
    assert first.startswith("Received:")


def test_loopback_is_no_exception(rejecting):
    """interface.md: SPF and DMARC for it too; here it is not in relay_from."""
    assert "550-5.7.23" in swaks(rejecting, "127.0.0.9", "x@here.test").stdout
