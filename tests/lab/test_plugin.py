"""A check of somebody else's, the one in docs/checks.rst, installed as a package of its own."""

import textwrap

import pytest

from tests.lab.mta import MTA, ROOT, free_port
from tests.lab.require import need
from tests.lab.test_proxy import announced
from tests.lab.test_proxy import swaks as send
from tests.test_packaging import environment, run

ADDRESS = "127.0.0.48"
PROJECT = """
[project]
name = "mta-manners"
version = "1"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools]
packages = ["requiretls_mta.checks.plugins"]
"""


def example(page="checks.rst"):
    """The code of a page."""
    page = (ROOT / "docs" / page).read_text()
    block = page.partition(".. code-block:: python\n")[2]
    lines = []
    for line in block.splitlines()[1:]:
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with our dependencies and this checkout on its path, in which the package was installed."""
    folder = tmp_path_factory.mktemp("plugin")
    plugins = folder / "project" / "requiretls_mta" / "checks" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "manners.py").write_text(example())
    (folder / "project" / "pyproject.toml").write_text(PROJECT)
    found, purelib = environment(folder, ROOT)
    run(found, "-m", "pip", "install", "--quiet", "--no-deps", folder / "project", cwd=folder)
    assert (purelib / "requiretls_mta" / "checks" / "plugins" / "manners.py").exists()
    return found


def test_a_check_from_another_package_runs(python, tmp_path):
    """It is found, makes RCPT wait, is heard in Authentication-Results, and refuses."""
    need("swaks")
    mx, plain = free_port(ADDRESS), free_port(ADDRESS)
    instance = MTA(
        tmp_path / "mta",
        f"""hostname = "mx.here.test"
[listen.mx]
endpoint = ["haproxy:tcp:{mx}:interface={ADDRESS}", "tcp:{plain}:interface={ADDRESS}"]
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{tmp_path}/mta/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:1"]
""",
        (ADDRESS, plain),
    )
    instance.twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
    instance.start()
    try:
        send(mx, "ann@here.test", *announced("203.0.113.9"))
        (octets,) = instance.mail("ann@here.test")
        assert b"Authentication-Results: mx.here.test;" in octets
        assert b" x-manners=pass smtp.helo=c.test" in octets
        with pytest.raises(AssertionError, match="You are not my localhost"):
            send(mx, "bob@here.test", *announced("203.0.113.9"), "--ehlo", "localhost")
        send(plain, "eve@here.test", "--ehlo", "localhost")  # relay_from: not checked
        assert b"Authentication-Results" not in instance.mail("eve@here.test")[0]
    finally:
        assert instance.stop() == 0
    assert "Traceback" not in instance.log.read_text()
