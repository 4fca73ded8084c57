"""The codec: what is a reply to our question, and what it says."""

import struct

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requiretls_mta.dns import wire
from tests.dns.fakes import SOA, FakeNameServer, Say, denial, rrsets, wrong_case, wrong_id, wrong_question

MX = dns.rdatatype.MX
A = dns.rdatatype.A


def question(text="good.test.", rdtype=MX, **more):
    return wire.build(dns.name.from_text(text), rdtype, id=4711, **more)


def reply_to(query, say):
    return FakeNameServer(None)._reply(dns.message.from_wire(query.wire), say, "tcp")


def read(say, text="good.test.", rdtype=MX):
    query = question(text, rdtype)
    return wire.read(query, reply_to(query, say))


def test_a_question_asks_for_recursion_and_ad():
    """RD=1, AD=1, CD=0, EDNS with 1,232 octets and without DO."""
    sent = dns.message.from_wire(question().wire)
    assert sent.flags == dns.flags.RD | dns.flags.AD
    assert (sent.edns, sent.payload, sent.ednsflags & dns.flags.DO) == (0, 1232, 0)
    assert sent.question[0].name.to_text() == "good.test."


def test_a_question_without_edns_and_one_with_cd():
    """What FORMERR and SERVFAIL lead to."""
    assert dns.message.from_wire(question(edns=False).wire).edns == -1
    assert dns.message.from_wire(question(checking_disabled=True).wire).flags & dns.flags.CD


@pytest.mark.parametrize(
    "text", ["", "@", "a..b", ".a", "x" * 64 + ".test", "bücher.test", "a\\", "a\\999.b", "a." * 127 + "b"]
)
def test_what_is_no_name_is_not_asked(text):
    """Names have labels of 1 to 63 octets, 255 in all, and come as A-labels."""
    assert wire.parse_name(text) is None


@pytest.mark.parametrize(("text", "name"), [("Good.Test", "good.test."), ("good.test.", "good.test."), (".", ".")])
def test_names_are_absolute(text, name):
    """No search list is ever applied."""
    assert wire.show_name(wire.parse_name(text)) == name


def test_random_case_changes_letters_only():
    """0x20 takes one bit per letter."""
    name = dns.name.from_text("ab-1.TEST.")
    assert wire.mix_case(name, 0).to_text() == "ab-1.test."
    assert wire.mix_case(name, (1 << 256) - 1).to_text() == "AB-1.TEST."
    assert wire.mix_case(name, 0b1).to_text() == "Ab-1.test."


def test_records_of_the_asked_type():
    """The plain case."""
    reply = read(Say(records=("good.test. 60 IN MX 10 mx.good.test.",), ad=True))
    assert [r.to_text() for r in reply.records] == ["10 mx.good.test."]
    assert (reply.rcode, reply.authentic, reply.canonical, reply.ttl) == ("NOERROR", True, "good.test.", 60)


def test_records_of_other_types_owners_and_classes_do_not_count():
    """An answer that does not belong to the question is no answer."""
    reply = read(
        Say(
            records=(
                "good.test. 60 IN A 192.0.2.1",
                "other.test. 60 IN MX 10 mx.evil.test.",
            ),
        )
    )
    assert reply.records == ()


def test_aliases_are_followed_with_the_least_ttl():
    """The owner of the records is told, for DANE wants it."""
    reply = read(
        Say(
            records=(
                "b.test. 30 IN CNAME C.test.",
                "good.test. 60 IN CNAME b.test.",
                "c.test. 90 IN MX 5 mx.test.",
            )
        )
    )
    assert (reply.canonical, reply.ttl, len(reply.records)) == ("c.test.", 30, 1)


def test_a_dname_is_followed_without_its_cname():
    """RFC 6672: the server synthesises the CNAME, but nothing breaks where it does not."""
    reply = read(Say(records=("sub.test. 30 IN DNAME new.test.", "a.new.test. 60 IN MX 5 mx.test.")), "a.sub.test.")
    assert (reply.canonical, reply.ttl, len(reply.records)) == ("a.new.test.", 30, 1)


def chain(length):
    links = [f"n{i}.test. 60 IN CNAME n{i + 1}.test." for i in range(length)]
    return Say(records=(*links, f"n{length}.test. 60 IN MX 5 mx.test."))


def test_eight_aliases_are_enough():
    """A ninth, or a loop, is a mistake of the zone."""
    assert read(chain(8), "n0.test.").records
    assert read(chain(9), "n0.test.").problem
    loop = Say(records=("a.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME a.test."))
    assert read(loop, "a.test.").problem


@pytest.mark.parametrize(
    ("say", "ttl"),
    [
        (denial("NXDOMAIN"), 300),
        (denial(), 300),
        (denial(soa="test. 60 IN SOA a. b. 1 2 3 4 300"), 60),
        (denial(soa="other. 60 IN SOA a. b. 1 2 3 4 300"), 0),
        (Say(rcode="NXDOMAIN"), 0),
        (Say(), 0),
    ],
)
def test_negative_ttl(say, ttl):
    """RFC 2308 5: the lesser of the SOA's TTL and its minimum; without a SOA of ours, nothing is kept."""
    reply = read(say)
    assert (reply.records, reply.ttl, reply.problem) == ((), ttl, "")


def test_nothing_at_the_end_of_an_alias():
    """The TTL of the alias counts too."""
    say = Say(rcode="NXDOMAIN", records=("good.test. 20 IN CNAME gone.test.",), authority=(SOA,))
    reply = read(say)
    assert (reply.rcode, reply.canonical, reply.ttl) == ("NXDOMAIN", "gone.test.", 20)


def test_a_referral_is_no_denial():
    """A server that does not recurse must not make mail undeliverable."""
    assert read(Say(authority=("test. 60 IN NS ns.test.",), recursion_available=False)).problem
    assert read(Say(records=("good.test. 60 IN CNAME x.other.",), recursion_available=False)).problem


def test_extended_errors_are_told():
    """RFC 8914."""
    assert read(Say(rcode="SERVFAIL", ede=(6, 22))).ede == (6, 22)


@pytest.mark.parametrize("forge", [wrong_id, wrong_question])
def test_replies_to_others_are_foreign(forge):
    """Id and question have to be ours."""
    query = question()
    octets = forge(dns.message.from_wire(query.wire), reply_to(query, Say()))
    assert wire.read(query, octets) is wire.Unusable.FOREIGN


def test_a_question_is_no_reply():
    """Our own packet coming back has QR=0."""
    query = question()
    assert wire.read(query, query.wire) is wire.Unusable.FOREIGN


def test_letter_case_counts_where_it_is_asked_for():
    """0x20 by UDP; by TCP nobody forges blindly."""
    query = question("gOOd.tEst.")
    octets = wrong_case(dns.message.from_wire(query.wire), reply_to(query, Say()))
    assert wire.read(query, octets, exact_case=True) is wire.Unusable.CASE
    assert isinstance(wire.read(query, octets), wire.Reply)


def test_formerr_may_come_without_a_question():
    """Servers that cannot read ours send only a header; any other reply needs one."""
    header = struct.pack("!HHHHHH", 4711, 0x8181, 0, 0, 0, 0)
    assert wire.read(question(), header).rcode == "FORMERR"
    header = struct.pack("!HHHHHH", 4711, 0x8180, 0, 0, 0, 0)
    assert wire.read(question(), header) is wire.Unusable.FOREIGN


def test_a_truncated_reply_may_end_in_the_middle_of_a_record():
    """Only its question is read."""
    query = question()
    whole = reply_to(query, Say(records=("good.test. 60 IN MX 10 mx.good.test.",)))
    cut = whole[:2] + struct.pack("!H", 0x8380) + whole[4:-20]
    assert wire.read(query, cut).truncated


def test_floods_of_records_are_not_even_read():
    """A domain's owner chooses how much its name servers answer; the reactor must not stand still for it."""
    query = question(rdtype=A)
    few, many = (
        reply_to(query, Say(records=tuple(f"good.test. 60 IN A 10.0.{i // 250}.{i % 250}" for i in range(count))))
        for count in (900, 4000)
    )
    assert len(wire.read(query, few).records) == 900
    assert wire.read(query, many) is wire.Unusable.MALFORMED
    assert wire.read(query, few[:4] + b"\xff\xff" + few[6:]) is wire.Unusable.MALFORMED


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_any_octets_are_read(octets):
    """No octets of the network raise."""
    assert not isinstance(wire.read(question(), octets), wire.Reply)


@given(st.data())
@settings(max_examples=500)
def test_a_damaged_reply_never_raises(data):
    """Flip octets of a right reply, cut it, lengthen it."""
    query = question()
    records = ("good.test. 60 IN CNAME b.test.", "b.test. 60 IN MX 10 mx.test.", 'b.test. 60 IN TXT "a" "b"')
    octets = bytearray(reply_to(query, Say(records=records, authority=(SOA,), ede=(6,))))
    for _ in range(data.draw(st.integers(1, 6))):
        octets[data.draw(st.integers(2, len(octets) - 1))] = data.draw(st.integers(0, 255))
    del octets[data.draw(st.integers(0, len(octets))) :]
    reply = wire.read(query, bytes(octets) + data.draw(st.binary(max_size=20)))
    assert isinstance(reply, wire.Reply | wire.Unusable)
    if isinstance(reply, wire.Reply):
        assert all(r.rdtype == MX for r in reply.records)


TLSA = dns.rdatatype.TLSA
DIGEST = "ab" * 32


def read_tlsa(*datas):
    """A reply with records of these data, that a type of private use has kept from being looked at."""
    query = question("mx.test.", TLSA)
    records = [f"mx.test. 60 IN TYPE65280 \\# {len(data) // 2} {data}" for data in datas]
    octets = reply_to(query, Say(records=records, ad=True))
    assert octets.count(b"\xff\x00\x00\x01") == len(datas)
    reply = wire.read(query, octets.replace(b"\xff\x00\x00\x01", b"\x00\x34\x00\x01"))
    assert isinstance(reply, wire.Reply), reply
    return reply, sorted(record.to_wire().hex() for record in reply.records)


def test_tlsa_records_are_handed_on_unread():
    """Also the malformed one, and without harm to the others (RFC 7671 9); through an alias, with the least TTL."""
    datas = ["", "03", "030101aabb", "030101" + DIGEST]
    reply, data = read_tlsa(*datas)
    assert data == datas
    assert reply.authentic and reply.ttl == 60 and {record.rdtype for record in reply.records} == {TLSA}
    alias = ("mx.test. 9 IN CNAME d.test.", f"d.test. 60 IN TLSA 3 1 1 {DIGEST}")
    reply = read(Say(records=alias), "mx.test.", TLSA)
    assert (reply.canonical, reply.ttl, len(reply.records)) == ("d.test.", 9, 1)
    assert read(denial(), "mx.test.", TLSA).records == ()


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_reply_about_tlsa_never_raises(data):
    """Flip octets of a right reply, cut it, lengthen it."""
    query = question("mx.test.", TLSA)
    octets = bytearray(reply_to(query, Say(records=(f"mx.test. 60 IN TLSA 3 1 1 {DIGEST}",), authority=(SOA,))))
    for _ in range(data.draw(st.integers(1, 6))):
        octets[data.draw(st.integers(2, len(octets) - 1))] = data.draw(st.integers(0, 255))
    del octets[data.draw(st.integers(0, len(octets))) :]
    reply = wire.read(query, bytes(octets) + data.draw(st.binary(max_size=20)))
    assert isinstance(reply, wire.Reply | wire.Unusable)


def test_the_fakes_read_zone_lines():
    """The script's lines are what they look like."""
    assert rrsets([SOA])[0].rdtype == dns.rdatatype.SOA
