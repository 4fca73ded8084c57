"""The configuration: what the page says is what is read, and every mistake is told at once."""

import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.service.config import Config, as_toml_tables, load_config
from requiretls_mta.service.config_convert import known_keys
from requiretls_mta.service.config_errors import ConfigError, Refused, dotted
from requiretls_mta.service.config_notes import (
    cautions,
    needs_restart,
    unreadable_files,
    without_effect,
    without_secrets,
)
from requiretls_mta.service.config_read import given_keys
from requiretls_mta.service.config_types import (
    parse_answers,
    parse_duration,
    parse_name_server,
    parse_next_hop,
    parse_pattern,
    parse_rate,
    parse_size,
    read_rate,
    write_duration,
    write_size,
)
from requiretls_mta.service.config_write import write_toml
from requiretls_mta.service.policies import policies, with_files
from tests.receive.signatures import ED25519, pem

DOCUMENTED = Path(__file__).with_name("documented.toml")
# The page shows an example, not a default, for these.
EXAMPLES = (
    "hostname",
    "authserv_id",
    "store.node",
    "tls.certificate",
    "tls.key",
    "listen",
    "domains",
    "delivery.maildir",
    "delivery.lmtp",
    "aliases",
    "access.senders",
    "relay.routes",
    "requiretls.policy",
    "requiretls.rule",
    "dnswl",
    "dkim.sign",
    "dns.servers",
)


LIST = '[[list]]\naddress = "t@a.b"\nowner = "o@a.b"\nmembers_file = "m"'


def write(tmp_path, text):
    path = tmp_path / "mta.toml"
    path.write_text(text)
    return path


def errors(tmp_path, text, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return {problem.key: problem for problem in caught.value.problems}


def documented():
    return tomllib.loads(DOCUMENTED.read_text())


def at(tables, path):
    for part in path:
        tables = tables[part]
    return tables


def default_rows():
    return [
        key for key in given_keys(documented()) if not any((dotted(key) + ".").startswith(e + ".") for e in EXAMPLES)
    ]


@pytest.mark.parametrize("key", default_rows(), ids=dotted)
def test_each_default_is_the_documented_one(key):
    """A key left out means what the page shows for it."""
    expected = at(documented(), key)
    found = at(as_toml_tables(load_config()), key)
    if key == ("access", "relay_from"):
        found = [text.partition("/")[0] for text in found]
    assert found == expected


def test_documented_defaults_are_many():
    """The table above is not empty by mistake."""
    assert len(default_rows()) > 35


def test_the_defaults_of_listeners_and_whitelists_are_the_documented_ones(tmp_path):
    """The values that the page tells in comments and in its text."""
    config = load_config(
        write(tmp_path, '[listen.a]\nendpoint = "tcp:0"\nservice = "mx"\n[[dnswl]]\nzone = "list.example"\n')
    )
    listen, dnswl = config.listen["a"], config.dnswl[0]
    assert (listen.require_tls, listen.trusted, listen.proxies) == (False, False, ())
    assert (listen.max_connections, listen.max_connections_per_client) == (10000, 1000)
    assert (listen.timeout, listen.max_recipients, listen.max_errors) == (300, 1000, 20)
    shown = documented()["dnswl"][0]
    assert (dnswl.display_zone, dnswl.override_spf) == ("list.example", ())
    assert list(dnswl.errors) == shown["errors"]
    assert (dnswl.selftest, dnswl.txt, dnswl.report_none) == (shown["selftest"], shown["txt"], shown["report_none"])
    assert config.store.node == config.authserv_id == config.hostname


def test_every_documented_key_is_known(tmp_path):
    """The page's whole example is read; only its two ways of delivery exclude each other."""
    found = errors(tmp_path, DOCUMENTED.read_text())
    assert list(found) == ["delivery"]
    config = load_config(write(tmp_path, DOCUMENTED.read_text().replace('lmtp = "unix', '# lmtp = "unix')))
    assert config.requiretls.rule[0].require is True
    assert config.aliases["sales@example.org"][1].domain == "example.net"
    assert config.relay.retry == (60, 300, 900, 3600, 14400)
    assert config.delivery.maildir == "/var/mail/{domain}/{local}"


def test_the_keys_in_comments_are_known_too(tmp_path):
    """SNI, lists, relay logins, and a listener's further keys."""
    text = """
    [listen.mx]
    endpoint = ["haproxy:tcp:10025", "unix:sock"]
    service = "mx"
    require_tls = true
    trusted = true
    max_connections = 1
    max_connections_per_client = 1
    timeout = "1m30s"
    max_recipients = 1
    max_errors = 1
    proxies = ["192.0.2.7"]
    [[tls.sni]]
    names = ["MX.other.example"]
    certificate = "c.pem"
    key = "/k.pem"
    [[list]]
    address = "team@example.org"
    owner = "ann@example.org"
    members_file = "members"
    requiretls = "ignore"
    [relay.auth."smtp.provider.example"]
    user = "u"
    password_file = "p"
    """
    config = load_config(write(tmp_path, text))
    proxied, unix = config.listen["mx"].endpoint
    assert (proxied.description, proxied.proxied) == ("tcp:10025", True)
    assert unix.description == f"unix:{tmp_path}/sock"
    assert config.tls.sni[0].names == ("mx.other.example",)
    assert config.tls.sni[0].certificate == tmp_path / "c.pem"
    assert config.lists[0].requiretls == "ignore"
    assert config.relay.auth["smtp.provider.example"].password_file == tmp_path / "p"


def test_all_errors_are_told_at_once(tmp_path):
    """Bad values, unknown keys, missing keys and conflicts come in one list, each with what is allowed."""
    found = errors(
        tmp_path,
        """
        hostnme = "x"
        [relay]
        port = "x"
        retry = ["1m", 5]
        message_size = "1M"
        [[dnswl]]
        txt = "k"
        [listen.mx]
        endpoint = ["tcp:99999"]
        service = "mxx"
        [domains]
        local = ["a.example"]
        [aliases]
        "a@x" = "b@x"
        "A@x" = "b@x"
        [tls]
        key = "k"
        """,
        "log.level=loud",
        "state=5",
        "nothing",
    )
    assert set(found) == {
        "", "hostnme", "relay.port", "relay.retry[1]", "relay.message_size", "dnswl[0].txt", "dnswl[0].zone",
        "listen.mx.endpoint", "listen.mx.service", 'aliases."A@x"', "log.level", "state",
    }  # fmt: skip
    assert found["relay.port"].found == '"x"'
    assert found["relay.port"].allowed == "an integer from 1 to 65535"
    assert found["relay.port"].file == str(tmp_path / "mta.toml")
    assert found["log.level"].file == found["state"].file == found[""].file == "--set"


def test_each_error_names_whence_it_came(tmp_path):
    """A table that only `--set` brought is its own, and so is all of one that it put in the place of the file's."""
    text = '[relay]\nport = "x"\n[aliases]\n"a@b" = "bad"\n'
    found = errors(tmp_path, text, "a.b.c=1", "relay.prot=1", 'aliases={"c@d"="bad"}', 'listen.mx.service="mx"')
    file = str(tmp_path / "mta.toml")
    assert {key: problem.file for key, problem in found.items()} == {
        "a": "--set",
        "relay.prot": "--set",
        "relay.port": file,
        'aliases."c@d"': "--set",
        "listen.mx.endpoint": "--set",
    }


def test_conflicts_are_told_beside_other_errors(tmp_path):
    """A bad value in one table does not hide what is wrong between others."""
    found = errors(tmp_path, '[relay]\nport = 0\n[domains]\nlocal = ["a.example"]\n[tls]\nkey = "k"\n')
    assert set(found) == {"relay.port", "delivery", "tls.certificate"}


def test_a_conflict_is_not_told_when_one_of_its_keys_is_at_fault(tmp_path):
    """Nobody is told to give a maildir whose value is just being complained of."""
    assert set(errors(tmp_path, '[domains]\nlocal = ["a.example"]\n[delivery]\nmaildir = 5\n')) == {"delivery.maildir"}


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ('hostnam = "x"', "hostnam", '"hostname"'),
        ("[relay]\nprot = 25", "relay.prot", '"port"'),
        ("[relai]\nport = 25", "relai", '"relay"'),
        ('message_size = "1M"', "message_size", '"limits.message_size"'),
        ('[listen.mx]\nendpoint = "tcp:0"\nservise = "mx"\nservice = "mx"', "listen.mx.servise", '"service"'),
        ('[[dnswl]]\nzone = "a"\ndisplayzone = "b"', "dnswl[0].displayzone", '"display_zone"'),
        ("given = 1", "given", '"listen"'),
        ("[lists]\n", "lists", '"list"'),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known_one(tmp_path, text, key, meant):
    """A slip of the pen is named together with what it was meant as."""
    found = errors(tmp_path, text)
    assert found[key].found == "an unknown key"
    assert meant in found[key].allowed or key == "given"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[tls]\ncertificate = "c"', "tls.key"),
        ('[tls]\nkey = "k"', "tls.certificate"),
        ('[tls]\nminimum = "1.1"', "tls.minimum"),
        ('[domains]\nlocal = ["a.example"]', "delivery"),
        ('[delivery]\nmaildir = "m"\nlmtp = "tcp:h:24"', "delivery"),
        ('[delivery]\nmaildir = "m/{what}"', "delivery.maildir"),
        ('[delivery]\nmaildir = "m/../{local}"', "delivery.maildir"),
        ('[delivery]\nlmtp = "h:24"', "delivery.lmtp"),
        ('[delivery]\nmaildir = "m"\nrecipients = "callout"', "delivery.recipients"),
        ('[domains]\nlocal = ["a.b"]\nrelay = ["A.b"]\n[delivery]\nmaildir = "m"', "domains.relay"),
        ('[domains]\nlocal = ["a b"]', "domains.local[0]"),
        ('[listen.p]\nendpoint = "haproxy:tcp:25"\nservice = "mx"', "listen.p.proxies"),
        ('[listen.l]\nendpoint = "tcp:25"\nservice = "lmtp"', "listen.l.endpoint"),
        ('[listen.l]\nendpoint = "ssl:25"\nservice = "mx"', "listen.l.endpoint"),
        ('[listen.l]\nendpoint = "nonsense"\nservice = "mx"', "listen.l.endpoint"),
        ('[listen.l]\nendpoint = "tcp:25:interfaec=::1"\nservice = "mx"', "listen.l.endpoint"),
        ('[listen.l]\nendpoint = []\nservice = "mx"', "listen.l.endpoint"),
        ('[listen.l]\nservice = "mx"', "listen.l.endpoint"),
        ('[listen.a]\nendpoint = ["tcp:25", "tcp:25"]\nservice = "mx"', "listen.a.endpoint"),
        ("listen = 5", "listen"),
        ("relay = 5", "relay"),
        ('[access]\nrelay_from = ["10.0.0.1/8"]', "access.relay_from[0]"),
        ('[access.senders]\nanna = "anna@example.org"', "access.senders.anna"),
        ('[access.senders]\nanna = ["anna"]', "access.senders.anna[0]"),
        ('[access.senders]\n"*" = ["{user}@a.b", "{name}@a.b"]', 'access.senders."*"[1]'),
        ("[limits]\nmessage_size = 0", "limits.message_size"),
        ('[limits]\nmessages_per_user = "500"', "limits.messages_per_user"),
        ('[limits]\nmessages_per_user = "0/1h"', "limits.messages_per_user"),
        ('[limits]\nrecipients_per_user = "5/0s"', "limits.recipients_per_user"),
        ("[limits]\nmessages_per_client = 500", "limits.messages_per_client"),
        ("[limits]\nreceived_hops = true", "limits.received_hops"),
        ('[dns]\nservers = ["ns.example"]', "dns.servers[0]"),
        ("[dns]\ntrust_ad = true", "dns.trust_ad"),
        ("[relay]\nretry = []", "relay.retry"),
        ('[[tls.sni]]\nnames = []\ncertificate = "c"\nkey = "k"', "tls.sni[0].names"),
        ('[relay]\nlifetime = "0s"', "relay.lifetime"),
        ('[relay]\nsource_ipv4 = "::1"', "relay.source_ipv4"),
        ('[relay.routes]\n"a.example" = "http:b"', 'relay.routes."a.example"'),
        ('[relay.routes]\n"a..b" = "smtp:b"', 'relay.routes."a..b"'),
        ('[requiretls]\ndefault = "strict"', "requiretls.default"),
        ('[requiretls.policy]\n"a.example" = "none"', 'requiretls.policy."a.example"'),
        ("[[requiretls.rule]]\nrequire = false\nfloor = true", "requiretls.rule[0].floor"),
        ('[[requiretls.rule]]\nrequire = true\nlistener = "x"', "requiretls.rule[0].listener"),
        ('[[requiretls.rule]]\nsender = "x"', "requiretls.rule[0].require"),
        ('[[requiretls.rule]]\nrequire = true\nheader = "No Name: x"', "requiretls.rule[0].header"),
        (f"{LIST}\n{LIST}", "list[1].address"),
        (LIST.replace("o@", "T@"), "list[0].owner"),
        (f'{LIST}\n[aliases]\n"o@a.b" = "p@a.b"\n"p@a.b" = ["q@a.b", "t@a.b", "o@a.b"]', "list[0].owner"),
        (f'{LIST}\n[aliases]\n"t@a.b" = "p@a.b"', "list[0].address"),
        ('[[dnswl]]\nzone = "a"\n[[dnswl]]\nzone = "A"', "dnswl[1].zone"),
        (f'[[dnswl]]\nzone = "{".".join(["a" * 60] * 4)[:190]}"', "dnswl[0].zone"),
        ('[[dnswl]]\nzone = "a"\naccept = ["127.0.[9..2].1"]', "dnswl[0].accept[0]"),
        ('[store]\nurl = "mysql://u:hush@h/d"', "store.url"),
        ('[tlsrpt]\ncontact = "https://example.org/"', "tlsrpt.contact"),
        ('[tlsrpt]\ncontact = "mailto:ü@example.org"', "tlsrpt.contact"),
        ('[tlsrpt]\ncontact = "mailto:a@[192.0.2.1]"', "tlsrpt.contact"),
        ('[web]\nendpoint = "haproxy:tcp:80"', "web.endpoint"),
        ('[aliases]\n"nobody" = "a@b"', "aliases.nobody"),
        ('[aliases]\n"@a b" = "a@b"', 'aliases."@a b"'),
        ('[aliases]\n"@" = "a@b"', 'aliases."@"'),
        ('[delivery]\nrecipient_delimiter = "++"', "delivery.recipient_delimiter"),
        (f'{LIST}\n[aliases]\n"@a.b" = "t@a.b"', "list[0].owner"),
        ('[aliases]\n"a@b" = []', 'aliases."a@b"'),
        ("workers = -1", "workers"),
        ("workers = 1.5", "workers"),
        ('log = "json"', "log"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, key):
    """Each mistake is one problem at its own key."""
    found = errors(tmp_path, text)
    assert list(found) == [key]
    assert found[key].allowed


def test_a_secret_is_not_shown(tmp_path):
    """A store's password appears neither in an error nor in what is shown."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, '[store]\nurl = "mysql://u:hush@h/d"'))
    assert "hush" not in str(caught.value)
    config = load_config(write(tmp_path, '[store]\nurl = "postgresql://u:hush@h/d"'))
    assert without_secrets(config).store.url == "postgresql://u:***@h/d"
    assert without_secrets(load_config()) == load_config()


KEY = "4f7ac1a9b2e84d2"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'zone = "{KEY}..list.example"', "dnswl[0].zone"),
        (f'zone = "{KEY}.list.example"\n[[dnswl]]\nzone = "{KEY}.list.example"', "dnswl[1].zone"),
        (f'zone = "{KEY}.{"a." * 100}example"', "dnswl[0].zone"),
    ],
)
def test_a_key_in_a_zone_is_not_shown(tmp_path, text, key):
    """In no error, which may end in a log; nor where the configuration is shown, or written by a debugger."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"[[dnswl]]\n{text}"))
    assert key in str(caught.value) and KEY not in str(caught.value)
    good = f'[[dnswl]]\nzone = "{KEY}.list.example"\ndisplay_zone = "list.example"\n[[dnswl]]\nzone = "b.example"\n'
    config = load_config(write(tmp_path, good))
    assert [(one.zone, one.display_zone) for one in without_secrets(config).dnswl] == [
        ("***", "list.example"),
        ("b.example", "b.example"),
    ]
    assert KEY not in repr(config) + repr(policies(config).checks)


@pytest.mark.parametrize(
    ("zone", "is_told"),
    [
        ("qhzqaacotgzsxj2gpoyuhzcd24.wl.example", True),
        ("wl.4f7ac1a9b2e84d2f8f0c6f1d2a9b3c4d.example", True),
        ("list.dnswl.org", False),
        ("hostkarma.junkemailfilter.com", False),
        ("xn--a-very-long-name-4f7ac1a9b2e84.example", False),
        ("reputations2026.example", False),
        ("averylongnameofaword.20261125202611252026.example", False),
    ],
)
def test_a_zone_that_seems_to_hold_a_key_is_told(tmp_path, zone, is_told):
    """Without a display_zone every message would show it; the warning does not."""
    (tmp_path / "a.toml").write_text(f'[[dnswl]]\nzone = "{zone}"\n')
    told = cautions(policies(load_config(tmp_path / "a.toml")))
    assert [text[:14] for text in told] == ["dnswl[0].zone:"] * is_told
    assert not set(zone.split(".")) - {"wl"} & set("".join(told).replace(".", " ").split())
    (tmp_path / "a.toml").write_text(f'[[dnswl]]\nzone = "{zone}"\ndisplay_zone = "wl.example"\n')
    assert cautions(policies(load_config(tmp_path / "a.toml"))) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("a = ", "bad TOML"), ("a = 1\na = 2", "bad TOML"), ("[" * 5000, "TOML"), ("x = '\x01'", "bad TOML")],
)
def test_what_is_no_toml_is_one_error(tmp_path, text, says):
    """Not even a table: said with the place."""
    assert says in errors(tmp_path, text)[""].found


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    """Missing, or not UTF-8."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin").write_bytes(b'hostname = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "latin")


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("relay.port=2525", lambda c: c.relay.port == 2525),
        ("hostname=mx.example.org", lambda c: c.hostname == "mx.example.org"),
        ('hostname="mx.example.org"', lambda c: c.hostname == "mx.example.org"),
        ("relay.lifetime=2d", lambda c: c.relay.lifetime == 172800),
        ("relay.source_ipv4=127.0.0.2", lambda c: c.relay.source_ipv4 == "127.0.0.2"),
        ('relay.routes."a.example"="smtp:[b.example]"', lambda c: c.relay.routes == {"a.example": "smtp:[b.example]"}),
        ('access.relay_from=["10.0.0.0/8"]', lambda c: str(c.access.relay_from[0]) == "10.0.0.0/8"),
        ('aliases."a=b@x"="c@x"', lambda c: "a=b@x" in c.aliases),
        ('aliases."@Bücher.example"="c@x"', lambda c: "@xn--bcher-kva.example" in c.aliases),
        ('delivery.recipient_delimiter="+"', lambda c: c.delivery.recipient_delimiter == "+"),
        ('[listen]={mx={endpoint="tcp:0",service="mx"}}'.replace("[", "").replace("]", ""), lambda c: "mx" in c.listen),
    ],
)
def test_an_override_sets_one_key(override, read):
    """`--set` takes a dotted key and a TOML value, or a bare word as a text."""
    assert read(load_config(None, [override]))


def test_an_override_wins_over_the_file(tmp_path):
    """What the command line says is in force; its table keeps its other keys."""
    config = load_config(write(tmp_path, '[relay]\nport = 26\nlifetime = "1d"'), ["relay.port=27"])
    assert (config.relay.port, config.relay.lifetime) == (27, 86400)


def test_relative_paths_start_at_the_files_folder(tmp_path, monkeypatch):
    """Whatever the current folder, and whatever it becomes."""
    monkeypatch.chdir("/")
    config = load_config(write(tmp_path, 'state = "var"\n[relay]\ntrust = "ca.pem"\n[delivery]\nmaildir = "m/{local}"'))
    assert config.state == tmp_path / "var"
    assert config.relay.trust == str(tmp_path / "ca.pem")
    assert config.delivery.maildir == f"{tmp_path}/m/{{local}}"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    from_below = load_config(Path("..") / config.file.name)
    assert from_below == config and from_below.file == config.file
    monkeypatch.chdir("/")
    assert load_config(None, ["state=var"]).state == Path("/var")


def test_the_whole_is_frozen():
    """Nobody changes a configuration in place."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        load_config().hostname = "x"


def test_what_is_written_reads_back_the_same(tmp_path):
    """`config show` loses nothing."""
    text = DOCUMENTED.read_text().replace('lmtp = "unix', '# lmtp = "unix')
    for config in (load_config(), load_config(write(tmp_path, text))):
        again = tmp_path / "again.toml"
        again.write_text(write_toml(as_toml_tables(config)))
        assert load_config(again) == config


@given(st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner.filter(lambda v: not isinstance(v, dict)))
    | st.dictionaries(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1), inner),
).filter(lambda v: isinstance(v, dict)))  # fmt: skip
def test_written_tables_are_toml(tables):
    """Any tables of texts, numbers and lists come back as they were, but for empty tables."""

    def kept(value):
        return {k: kept(v) for k, v in value.items() if kept(v) != {}} if isinstance(value, dict) else value

    def plain(value):
        return (
            all(k.isprintable() and len(k) < 100 and plain(v) for k, v in value.items())
            if isinstance(value, dict)
            else True
        )

    if plain(tables):
        assert kept(tomllib.loads(write_toml(tables))) == kept(tables)


@given(st.integers(1, 10**12))
def test_a_duration_reads_back_the_same(thousandths):
    """Writing and reading keep every millisecond."""
    assert parse_duration(write_duration(thousandths / 1000)) == pytest.approx(thousandths / 1000, abs=1e-4)


@given(st.integers(1, 10**15))
def test_a_size_reads_back_the_same(octets):
    """The suffix is only used where it is exact."""
    assert parse_size(write_size(octets)) == octets


@given(st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text()))
def test_any_value_is_read_or_refused(value):
    """No other exception leaves a reader."""
    for read in (parse_duration, parse_size, parse_pattern, parse_answers, parse_name_server):
        try:
            read(value)
        except Refused as error:
            assert error.allowed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("4h", 14400), ("5d", 432000), ("1h30m", 5400), ("1d2h3m4s", 93784), ("0.5s", 0.5)],
)
def test_durations(text, seconds):
    """The units of the page, and several together."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("bad", ["", "0s", "5", "m", "-5m", "5M", "5 m", "5m4h", "1e3s", "٥s", 30, 5.0, True, None, []])
def test_bad_durations(bad):
    """Anything else is refused, a bare number too."""
    with pytest.raises(Refused):
        parse_duration(bad)


@pytest.mark.parametrize(("value", "octets"), [("50M", 52428800), ("1K", 1024), (7, 7), ("7", 7), ("1G", 2**30)])
def test_sizes(value, octets):
    """M is 1,048,576 and K is 1,024."""
    assert parse_size(value) == octets


@pytest.mark.parametrize("bad", ["", "M", "5k", "5MB", "-1", 0, -1, True, 1.5, None, "٥M"])
def test_bad_sizes(bad):
    """Anything else is refused."""
    with pytest.raises(Refused):
        parse_size(bad)


@pytest.mark.parametrize(
    "hop",
    ["smtp:[mail.internal.example]:25", "smtp:example.net", "smtps:[192.0.2.1]:465", "lmtp:[::1]:24", "lmtp:unix:/s"],
)
def test_next_hops(hop):
    """Domains, hosts and addresses in brackets, with or without port."""
    assert parse_next_hop(hop, Path("/")) == hop


@pytest.mark.parametrize("bad", ["smtp:", "smtp:[]", "example.net", "smtp:a:0", "smtp:a:65536", "smtp:a:b", "smtp:a b"])
def test_bad_next_hops(bad):
    """A slip in a route is found at start, not at the first message."""
    with pytest.raises(Refused):
        parse_next_hop(bad, Path("/"))


def test_known_lists_bring_their_codes(tmp_path):
    """One line is enough for them; what is written beside it counts, and so does the name that a mirror shows."""
    text = """
        [[dnswl]]
        zone = "List.dnswl.org"
        [[dnswl]]
        zone = "hostkarma.junkemailfilter.com"
        selftest = "ipv4"
        [[dnswl]]
        zone = "key.dq.example"
        display_zone = "list.dnswl.org"
        [[dnswl]]
        zone = "list.example"
        [[dnswl]]
        zone = "wl.mailspike.net"
        [[dnswl]]
        zone = "karma.local"
        display_zone = "hostkarma.junkemailfilter.com"
    """
    one, two, three, four, five, six = load_config(write(tmp_path, text)).dnswl
    assert (one.accept, one.selftest) == (("127.0.[2..15].[0..3]",), "ipv4")
    assert (two.accept, two.selftest) == (("127.0.0.1",), "ipv4")
    assert three.accept == one.accept
    assert (four.accept, four.selftest) == (("127.[0..255].[0..255].[0..255]",), "ipv4")
    assert (five.accept, five.selftest) == (("127.0.0.[18..20]",), "off")
    assert (six.accept, six.selftest) == (("127.0.0.1",), "off")


def test_a_contact_is_a_mailbox_in_ascii():
    """With or without its scheme; the domain as the DNS has it."""
    for text in ("tls@Bücher.example", "mailto:tls@xn--bcher-kva.example"):
        contact = load_config(None, [f"tlsrpt.contact={text}"]).tlsrpt.contact
        assert contact == "mailto:tls@xn--bcher-kva.example"


def test_c50_a_table_of_policies_with_an_error_is_never_in_force(tmp_path):
    """No look-up can fail later on: the error is told at start or reload, with what is allowed."""
    found = errors(tmp_path, '[requiretls.policy]\n"a.example" = "relaxed"\n"b.example" = "enforce"')
    (problem,) = found.values()
    assert problem.key == 'requiretls.policy."a.example"' and "relaxed" in problem.found
    assert all(level in problem.allowed for level in ("enforce", "opportunistic+starttls", "opportunistic", "disable"))


def test_keys_without_effect_are_named(tmp_path):
    """Only what was set and asks for something that is not built yet."""
    text = "workers = 2\n[dane]\nenabled = true\n[mta_sts]\nenabled = false\n[relay]\nport = 25"
    assert without_effect(load_config(write(tmp_path, text))) == ["workers"]
    text = '[web]\nendpoint = "tcp:8025"\n[store]\nnode = "a"'
    assert without_effect(load_config(write(tmp_path, text))) == ["web.endpoint", "store.node"]
    assert without_effect(load_config(write(tmp_path, '[web]\nendpoint = ""\n[store]\nurl = ""'))) == []
    assert without_effect(load_config()) == []


@pytest.mark.parametrize("missing", ['[spf]\naction = "off"', "[dkim]\nverify = false"])
def test_dmarc_rejects_nothing_without_what_could_speak_for_it(tmp_path, missing):
    """Half of its evidence would reject the mail that the other half speaks for."""
    text = f'{missing}\n[dmarc]\naction = "reject"\n'
    assert "dmarc.action" in errors(tmp_path, text)
    load_config(write(tmp_path, text.replace("reject", "annotate")))


def test_a_change_that_needs_a_restart_is_named():
    """SIGHUP takes policies and keys; ports and limits it does not."""
    old = load_config(None, ["hostname=a.example"])
    new = load_config(None, ["hostname=a.example", "limits.message_size=1M", "aliases={'a@x'='b@x'}", "relay.port=26"])
    assert needs_restart(old, new) == ["limits.message_size", "relay.port"]
    assert needs_restart(old, old) == []
    new = load_config(None, ["hostname=a.example", "requiretls.enabled=false", "access.users=other"])
    assert needs_restart(old, new) == ["access.users", "requiretls.enabled"]
    new = load_config(None, ["hostname=a.example", "limits.messages_per_user=9/1m", "access.senders.anna=['a@x']"])
    assert needs_restart(old, new) == []


def test_files_that_cannot_be_read_are_named(tmp_path):
    """A certificate that is missing is found by `config check`; a missing users file is an empty one."""
    text = '[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n[access]\nusers = "users"'
    (tmp_path / "k.pem").write_text("")
    (problem,) = unreadable_files(load_config(write(tmp_path, text)))
    assert problem.key == "tls.certificate"
    assert "No such file" in problem.found


def test_what_is_wrong_in_a_file_of_addresses_is_found(tmp_path):
    """By `config check`, before a reload or a start finds it; with its line."""
    (tmp_path / "m").write_text("ann@example.org\nbob\n")
    text = f'{LIST}\n[delivery]\nmaildir = "d"\nrecipients = "m"'
    found = {problem.key: problem.found for problem in unreadable_files(load_config(write(tmp_path, text)))}
    assert set(found) == {"list[0].members_file", "delivery.recipients"}
    assert all("m, line 2: found" in each for each in found.values())
    (tmp_path / "m").unlink()
    assert len(unreadable_files(load_config(write(tmp_path, text)))) == 2


def signs(domain="example.org", selector="s1", key="key.pem"):
    return f'[[dkim.sign]]\ndomain = "{domain}"\nselector = "{selector}"\nkey = "{key}"\n'


def test_a_file_without_a_key_to_sign_with_is_found(tmp_path):
    """With what is allowed; one that is missing is told once."""
    (tmp_path / "key.pem").write_text("no key")
    config = load_config(write(tmp_path, signs() + signs(selector="s2", key="none.pem")))
    missing, bad = unreadable_files(config)
    assert missing.key == "dkim.sign[1].key"
    assert (bad.key, bad.found) == ("dkim.sign[0].key", f'no private key that can be read in "{tmp_path}/key.pem"')
    assert "RSA (1024 to 4096 bits) or Ed25519" in bad.allowed
    assert without_effect(config) == []


def test_several_keys_of_a_domain_have_selectors_of_their_own(tmp_path):
    """Two keys cannot be published under one name, and not every name can be published."""
    found = errors(tmp_path, signs() + signs(selector="s2") + signs())
    assert {key: problem.found for key, problem in found.items()} == {
        "dkim.sign[2].selector": '"s1" again for example.org'
    }
    load_config(write(tmp_path, signs() + signs(selector="s2") + signs(domain="sub.example.org")))
    long = ".".join(["d" * 60] * 4)
    assert "at most 253" in errors(tmp_path, signs(domain=long))["dkim.sign[0].selector"].allowed


@pytest.mark.parametrize(
    ("domain", "is_told"), [("example.org", False), ("org", False), ("reports.example.org", True), ("x.org", True)]
)
def test_reports_without_a_signature_are_told(tmp_path, domain, is_told):
    """RFC 8460 3: by mail they would be ignored."""
    (tmp_path / "key.pem").write_bytes(pem(ED25519))
    (tmp_path / "key.pem").chmod(0o600)
    on = '[tlsrpt]\nenabled = true\ncontact = "mailto:tls@Example.org"\n'
    found = with_files(policies(load_config(write(tmp_path, on + signs(domain)))))
    assert [told[:32] for told in cautions(found)] == ["tlsrpt: no [[dkim.sign]] is for "] * is_told
    assert cautions(with_files(policies(load_config(write(tmp_path, signs(domain)))))) == []


def test_known_keys_have_no_secrets_of_ours():
    """Where the configuration came from is not a key."""
    assert not {("file",), ("given",)} & set(known_keys(Config))
    assert isinstance(load_config().file, type(None))


def test_a_date_is_not_a_text(tmp_path):
    """TOML has kinds of values that no key takes."""
    assert errors(tmp_path, "hostname = 2026-01-01")["hostname"].found == "2026-01-01"


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500/1h", (500, 3600)), ("1/30s", (1, 30)), ("7/1d12h", (7, 129600)), ("999999999/1m", (999999999, 60))],
)
def test_rates(text, rate):
    """A number in a time."""
    found = read_rate(parse_rate(text))
    assert ((found.count, found.seconds), found.text) == (rate, text)


@pytest.mark.parametrize(
    "bad", ["/", "5/", "/1h", "-5/1h", "5/h", " 5/1h", "05/1h", "5/1h/1h", "٥/1h", "1e3/1h", 5, None, True]
)
def test_bad_rates(bad):
    """Nothing else."""
    with pytest.raises(Refused) as caught:
        parse_rate(bad)
    assert caught.value.allowed.startswith('a number in a time, such as "500/1h"')


def test_a_trace_can_be_switched_off(tmp_path):
    """`0s` is allowed where it says so, and nowhere else."""
    assert load_config(write(tmp_path, '[trace]\nkeep = "0s"')).trace.keep == 0.0
    assert load_config(write(tmp_path, '[trace]\nkeep = "36h"')).trace.keep == 36 * 3600.0
    assert as_toml_tables(load_config(write(tmp_path, '[trace]\nkeep = "0s"')))["trace"]["keep"] == "0s"
    assert "switch it off" in errors(tmp_path, "[trace]\nkeep = 0")["trace.keep"].allowed
    assert "relay.idle" in errors(tmp_path, '[relay]\nidle = "0s"')
