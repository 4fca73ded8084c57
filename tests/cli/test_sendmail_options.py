"""The command line of `requiretls-mta-sendmail`: a table of what Postfix's sendmail(1) knows."""

from pathlib import Path

import pytest

from requiretls_mta.cli.sendmail_options import Options, parse_options
from requiretls_mta.cli.sendmail_trouble import Trouble

TABLE = [
    ("a@b", {}),
    ("-f u@h a@b", {"sender": "u@h"}),
    ("-fu@h a@b", {"sender": "u@h"}),
    ("-r u@h a@b", {"sender": "u@h"}),
    ("-f <u@h> a@b", {"sender": "u@h"}),
    ("-f <> a@b", {"sender": ""}),
    ("-f root a@b", {"sender": "root"}),
    ("-f x@h -f u@h a@b", {"sender": "u@h"}),
    ("-FCronDaemon -i -odi -oem -oi -t", {"name": "CronDaemon", "ignore_dots": True, "extract": True}),
    ("-t -i", {"extract": True, "ignore_dots": True}),
    ("-ti a@b", {"extract": True, "ignore_dots": True}),
    ("-itfu@h a@b", {"extract": True, "ignore_dots": True, "sender": "u@h"}),
    ("-oi a@b", {"ignore_dots": True}),
    ("-bm a@b", {}),
    ("-b m a@b", {}),
    ("-bp", {"mode": "p"}),
    ("-q", {"mode": "q"}),
    ("-qI0123456789abcdef", {"mode": "q", "queue_id": "0123456789abcdef"}),
    ("-q30m a@b", {}),
    ("-C /etc/x.toml a@b", {"config": Path("/etc/x.toml")}),
    ("-N success,delay a@b", {"notify": "SUCCESS,DELAY"}),
    ("-Nnever a@b", {"notify": "NEVER"}),
    ("-R hdrs -V id+1 a@b", {"ret": "HDRS", "envid": "id+2B1"}),
    ("-O requiretls=yes a@b", {"require_tls": True}),
    ("-ORequireTLS=no a@b", {"require_tls": False}),
    ("-O QueueDirectory=/x a@b", {}),
    ("-om -o7 -o8 -oee -odb a@b", {}),
    ("-o e x a@b", {}),
    ("-B8BITMIME -Am -Ac -G -U -m -n -v -vv -x -h 5 -L l -X /x -p ESMTP:h -e m -bh a@b", {}),
]


@pytest.mark.parametrize(("line", "given"), TABLE)
def test_what_an_option_means(line, given):
    """As words, or glued together."""
    expected = Options(recipients=("a@b",) if line.endswith("a@b") else (), **given)
    assert parse_options(line.split()) == expected


@pytest.mark.parametrize(
    ("words", "recipients"),
    [
        (["a@b", "c@d"], ("a@b", "c@d")),
        (["a@b,c@d", "Ann <e@f>"], ("a@b", "c@d", "e@f")),
        (["--", "-odd@b"], ("-odd@b",)),
        (["-i", "--", "a@b"], ("a@b",)),
        (["root"], ("root",)),
    ],
)
def test_recipients_are_arguments(words, recipients):
    """With names and in lists, as shells and applications write them."""
    assert parse_options(words).recipients == recipients


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-f", "-f needs a value"),
        ("-Z a@b", "-Z: no such option"),
        ("-bs", "listener"),
        ("-bd", "twistd"),
        ("-bi", "SIGHUP"),
        ("-I", "SIGHUP"),
        ("-bv a@b", "explain"),
        ("-bz", "no such mode"),
        ("-N sometimes a@b", "never"),
        ("-N never,success a@b", "never"),
        ("-R all a@b", "full or hdrs"),
        ("-O requiretls=maybe a@b", "yes"),
        ("-B BINARY a@b", "8BITMIME"),
        ("-qRexample.org", "-qIID"),
        ("-f a@b,c@d e@f", "one sender"),
        ("a@b -f x@y", "before the recipients"),
        ("-f x@y -", "before the recipients"),
        ("<a@b", "without its >"),
    ],
)
def test_usage_errors_say_what_is_wrong(line, says):
    """Status 64."""
    with pytest.raises(Trouble, match=says) as caught:
        parse_options(line.split())
    assert caught.value.status == 64


@pytest.mark.parametrize("words", [["-V", "", "a@b"], ["-V", "\xe4", "a@b"], ["-V", "x" * 101, "a@b"], ["-F", "a\nb"]])
def test_values_that_no_parameter_may_have(words):
    """They would break out of a command or a field."""
    with pytest.raises(Trouble):
        parse_options(words)
