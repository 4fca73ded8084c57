"""The process as an operator sees it: start, signals, restart, delivery by LMTP, and starts that must not succeed."""

import json
import signal
import smtplib
import ssl
import subprocess
import time

import pytest

from tests.lab.ca import CA
from tests.lab.mta import BIN, MTA, free_port, user_file
from tests.smtp.dialogue import Talk

ADDRESS = "127.0.0.41"
BODY = "Subject: x\r\n\r\nbody\r\n"


def config(port, folder, *, extra="", delivery=None, listen=""):
    delivery = delivery or f'maildir = "{folder}/mail/{{domain}}/{{local}}"'
    return f"""hostname = "mx.here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
{listen}
[domains]
local = ["here.test"]
[delivery]
{delivery}
[dns]
servers = ["127.0.0.1:1"]
[access]
relay_from = ["127.0.0.0/8"]
{extra}
"""


@pytest.fixture
def port():
    return free_port(ADDRESS)


@pytest.fixture
def start(port):
    """Makes instances and stops them."""
    made = []

    def make(folder, text, probe=None, **options):
        made.append(MTA(folder, text, probe or (ADDRESS, port), **options))
        return made[-1]

    yield make
    for mta in made:
        mta.stop()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def send(port, *to, requiretls=False):
    with smtplib.SMTP(ADDRESS, port, timeout=10) as client:
        client.ehlo("c.test")
        if requiretls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.starttls(context=context)
            client.ehlo("c.test")
        return client.sendmail("s@here.test", list(to), BODY, mail_options=["REQUIRETLS"] if requiretls else [])


def test_sigterm_ends_everything_in_order(tmp_path, start, port):
    """Idle sessions hear 421 4.3.2, a message that is coming in gets its 250 and arrives, the exit status is 0."""
    mta = start(tmp_path, config(port, tmp_path)).start()
    idle, busy = Talk(port, ADDRESS), Talk(port, ADDRESS)
    idle.hear(), busy.hear()
    busy.say("EHLO c.test\r\nMAIL FROM:<s@here.test>\r\nRCPT TO:<r@here.test>\r\nDATA\r\n")
    [busy.hear() for _ in range(4)]
    began = time.monotonic()
    mta.process.send_signal(signal.SIGTERM)
    assert idle.rest().startswith(b"421 4.3.2")
    busy.say(f"{BODY}.\r\n")
    assert busy.rest().startswith(b"250 2.0.0 Ok: queued as ")
    assert mta.process.wait(10) == 0
    assert time.monotonic() - began < 8
    mta.start()
    assert len(mta.mail("r@here.test")) == 1


def test_sigterm_does_not_wait_for_ever(tmp_path, start, port):
    """A client in DATA that says nothing more is told 421 4.3.2 and cut off; status 0 within 8 seconds."""
    mta = start(tmp_path, config(port, tmp_path)).start()
    busy = Talk(port, ADDRESS)
    busy.hear()
    busy.say("EHLO c.test\r\nMAIL FROM:<s@here.test>\r\nRCPT TO:<r@here.test>\r\nDATA\r\nhalf")
    [busy.hear() for _ in range(4)]
    began = time.monotonic()
    mta.process.send_signal(signal.SIGTERM)
    assert busy.rest().startswith(b"421 4.3.2 ")
    assert mta.process.wait(10) == 0
    assert time.monotonic() - began < 8


def presented(port):
    """The certificate that STARTTLS shows, DER."""
    client = Talk(port, ADDRESS)
    client.tls()
    found = client.socket.getpeercert(binary_form=True)
    client.close()
    return found


def test_sighup_swaps_everything_or_nothing(tmp_path, start, port):
    """New certificate and aliases for the next sessions, old ones go on; a broken part keeps all, and says why."""
    ca = CA(tmp_path / "ca")
    files, new = ca.host("mx.here.test"), ca.host("mx.here.test", "new.here.test")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(files.chain.read_bytes()), key.write_bytes(files.key.read_bytes())
    extra = f'[tls]\ncertificate = "{chain}"\nkey = "{key}"\n[aliases]\n"x@here.test" = "a@here.test"\n'
    mta = start(tmp_path, config(port, tmp_path, extra=extra)).start()
    first = presented(port)
    kept = Talk(port, ADDRESS)
    kept.hear()
    send(port, "x@here.test")
    assert mta.mail("a@here.test")

    chain.write_bytes(new.chain.read_bytes())  # without its key: this reload must fail as a whole
    mta.file.write_text(mta.file.read_text().replace('= "a@here.test"', '= "b@here.test"'))
    mta.process.send_signal(signal.SIGHUP)
    until(lambda: "reload failed, all old values stay" in mta.log.read_text())
    assert presented(port) == first
    send(port, "x@here.test")
    assert len(mta.mail("a@here.test", 2)) == 2

    key.write_bytes(new.key.read_bytes())
    mta.file.write_text(mta.file.read_text().replace('hostname = "mx.here.test"', 'hostname = "mx2.here.test"'))
    mta.process.send_signal(signal.SIGHUP)
    until(lambda: '"reloaded"' in mta.log.read_text())
    assert presented(port) != first
    send(port, "x@here.test")
    assert mta.mail("b@here.test")
    assert "needs a restart: hostname" in mta.log.read_text()
    assert kept.ask("NOOP").startswith("250 2.0.0")


def logs_in(port, name, password):
    """Whether the submission listener takes this login."""
    with smtplib.SMTP(ADDRESS, port, timeout=10) as client:
        client.ehlo("c.test")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.starttls(context=context)
        client.ehlo("c.test")
        try:
            return client.login(name, password)[0] == 235
        except smtplib.SMTPAuthenticationError as error:
            assert error.smtp_code == 535
            return False


def test_sighup_reads_users_again_or_keeps_them(tmp_path, start, port):
    """A new user can log in after SIGHUP; with a broken configuration or users file the known ones still can."""
    submission = free_port(ADDRESS)
    listen = f'[listen.submission]\nendpoint = "tcp:{submission}:interface={ADDRESS}"\nservice = "submission"'
    users = tmp_path / "users"
    user_file(users, "ann", "one")
    text = config(port, tmp_path, listen=listen).replace("[access]", f'[access]\nusers = "{users}"')
    mta = start(tmp_path, text).start()
    assert logs_in(submission, "ann", "one") and not logs_in(submission, "bob", "two")

    good = mta.file.read_text()
    mta.file.write_text(good + "\nthis is = not TOML")
    user_file(users, "bob", "two")
    mta.process.send_signal(signal.SIGHUP)
    until(lambda: failures(mta) == 1)
    assert str(mta.file) in mta.log.read_text()
    mta.file.write_text(good)
    hashes = users.read_text()
    users.write_text(hashes + "carl-without-a-hash\n")
    mta.process.send_signal(signal.SIGHUP)
    until(lambda: failures(mta) == 2)
    assert f"{users}: line 3" in mta.log.read_text()
    assert logs_in(submission, "ann", "one") and not logs_in(submission, "bob", "two")

    users.write_text(hashes)
    mta.process.send_signal(signal.SIGHUP)
    until(lambda: '"reloaded"' in mta.log.read_text())
    assert logs_in(submission, "ann", "one") and logs_in(submission, "bob", "two")


def failures(mta):
    return mta.log.read_text().count("reload failed, all old values stay")


def run(folder, *arguments):
    return subprocess.run(
        [BIN / "twistd", "-n", "--pidfile=", "requiretls-mta", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_starts_that_must_not_succeed(tmp_path, start, port):
    """A bad configuration, a port or queue in use, no state folder: status 1, the reason in a line, no traceback."""
    mta = start(tmp_path / "a", config(port, tmp_path)).start()
    bad = tmp_path / "bad.toml"
    bad.write_text('hostnam = "x"\n[relay]\nport = "x"\n')
    failed = run(tmp_path, "--config", str(bad))
    assert failed.returncode == 1
    assert "hostnam" in failed.stderr and "relay.port" in failed.stderr
    other = tmp_path / "other.toml"
    other.write_text(mta.file.read_text().replace(f"{tmp_path}/a/state", f"{tmp_path}/b"))
    failed = run(tmp_path, "--config", str(other))
    assert failed.returncode == 1
    assert f"cannot listen on tcp:{port}" in failed.stderr + failed.stdout
    assert "Traceback" not in failed.stderr
    for state, says in (("open", "0700 is needed"), ("other.toml/state", "Not a directory")):
        (tmp_path / "open").mkdir(mode=0o777, exist_ok=True)
        (tmp_path / "open").chmod(0o777)
        free = f"listen.mx.endpoint=tcp:{free_port(ADDRESS)}"
        failed = run(tmp_path, "--config", str(other), "--set", f"state={tmp_path}/{state}", "--set", free)
        assert failed.returncode == 1
        assert says in failed.stderr + failed.stdout and "Traceback" not in failed.stderr + failed.stdout, failed
    failed = run(tmp_path, "--config", str(other), "--set", "listen.mx.endpoint=systemd:domain=INET:index=0")
    assert failed.returncode == 1
    assert "cannot listen on systemd:" in failed.stderr + failed.stdout and "Traceback" not in failed.stdout, failed
    locked = run(tmp_path, "--config", str(mta.file), "--set", f"listen.mx.endpoint=tcp:{free_port(ADDRESS)}")
    assert locked.returncode == 1
    assert str(tmp_path / "a/state") in locked.stdout + locked.stderr
    assert "raceback" not in locked.stdout + locked.stderr
    (tmp_path / "c/shards/0").mkdir(parents=True)
    (tmp_path / "c/shards/0/queue.db").write_bytes(b"no database" * 1000)
    broken = run(tmp_path, "--config", str(other), "--set", f"state={tmp_path}/c", "--set", free)
    assert broken.returncode == 1
    assert "queue.db: file is not a database" in broken.stdout and "raceback" not in broken.stdout, broken


def test_s27_s31_a_tag_survives_aliases_and_restarts(tmp_path, start, port):
    """Three recipients behind one alias, all required; the queue shows it before and after kill and restart."""
    extra = '[aliases]\n"x@here.test" = ["a@far.test", "b@far.test", "c@far.test"]\n'
    mta = start(tmp_path, config(port, tmp_path, extra=extra)).start()
    send(port, "x@here.test", requiretls=True)
    until(lambda: json.loads(mta.tool("queue", "list", "--json"))[0]["recipients"][0]["attempts"] == 1)
    mta.kill()
    for _ in range(2):
        (row,) = json.loads(mta.tool("queue", "list", "--json"))
        assert row["requiretls"] == "required"
        assert [r["address"] for r in row["recipients"]] == ["a@far.test", "b@far.test", "c@far.test"]
        assert row["recipients"][0]["state"] == "queued" and row["recipients"][0]["attempts"] == 1
        if mta.process.poll() is not None:
            mta.start()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_delivery_by_lmtp(tmp_path, start, port, kind):
    """[delivery] lmtp over a UNIX socket and loopback TCP is local: a tagged message is delivered (RFC 8689 4.4)."""
    lmtp = free_port(ADDRESS)
    where = f"{tmp_path}/lmtp" if kind == "unix" else f"{ADDRESS}:{lmtp}"
    endpoint = f"unix:{tmp_path}/lmtp" if kind == "unix" else f"tcp:{lmtp}:interface={ADDRESS}"
    spare = free_port(ADDRESS)
    box = start(
        tmp_path / "box",
        config(spare, tmp_path / "box", listen=f'[listen.lmtp]\nendpoint = "{endpoint}"\nservice = "lmtp"'),
        (ADDRESS, spare),
    ).start()
    mta = start(tmp_path / "mta", config(port, tmp_path, delivery=f'lmtp = "{kind}:{where}"')).start()
    send(port, "a@here.test", "b@here.test", requiretls=True)
    (octets,) = box.mail("a@here.test")
    assert b"with LMTP\n" in octets and b"with ESMTPS " in octets and b"(requiretls)" in octets
    assert box.mail("b@here.test")
    assert {e["recipient"] for e in mta.told("delivered", 2)} == {"a@here.test", "b@here.test"}
    assert {e["mx"] for e in box.told("delivered", 2)} == {"mx.here.test"}
