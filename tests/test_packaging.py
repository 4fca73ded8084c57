"""What users install: wheel, sdist and editable checkout, each where twistd finds the plugin."""

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".*_cache", ".git", ".hypothesis", ".venv", "*.egg-info", "__pycache__", "build", "dist", "node_modules", "var"
)


def packages():
    """The packages that setup.cfg lists."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options"]["packages"].split())


def run(*command, cwd, timeout=300):
    """The output of a command that has to succeed, in an environment without this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def twistd_lists_us(python, folder):
    """Whether twistd, run in an empty folder, knows of the service."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    code = "import sys; sys.path.remove(''); from twisted.scripts.twistd import run; run()"
    listed = run(python, "-c", code, "--help", cwd=empty)
    assert "\n    ftp " in listed  # Twisted's own plugins
    return "\n    requiretls-mta " in listed


def environment(folder, *paths):
    """A new environment that sees what this one has, pip included, and these paths: its Python, and its packages."""
    venv.create(folder / "venv", with_pip=importlib.util.find_spec("pip") is None)
    (purelib,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (purelib / "others.pth").write_text("".join(f"{path}\n" for path in (sysconfig.get_path("purelib"), *paths)))
    return folder / "venv" / "bin" / "python", purelib


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy without what work leaves behind."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="module")
def built(checkout):
    """The folder of the sdist, and of the wheel that was made from it."""
    pytest.importorskip("build") if os.environ.get("REQUIRE_ALL") != "1" else __import__("build")
    run(sys.executable, "-m", "build", "--outdir", checkout.parent / "dist", checkout, cwd=checkout.parent)
    return checkout.parent / "dist"


def test_every_package_is_listed():
    """setup.cfg names the packages one by one, so a new one must be added there."""
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "requiretls_mta").rglob("__init__.py")}
    assert packages() == found | {"twisted.plugins"}


def test_nothing_of_twisteds_is_shadowed():
    """An __init__.py there would overwrite Twisted's own, and break it when we are removed."""
    assert [path.name for path in (ROOT / "twisted").rglob("*.py")] == ["requiretls_mta_plugin.py"]


def test_the_sdist_has_what_a_packager_needs(built):
    """Tests, documentation and the files that the build reads."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "README.rst", "CHANGES.rst", "Makefile", "pyproject.toml", "tests/test_packaging.py"):
        assert name in names
    assert "tests/service/documented.toml" in names
    assert not [name for name in names if "__pycache__" in name or "dropin.cache" in name]


def test_a_wheel_works_in_a_clean_environment(built, tmp_path):
    """Installed with its dependencies, as a user would: twistd lists it from anywhere, and Twisted stays whole."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [n for n in names if n.startswith("twisted/")] == ["twisted/plugins/requiretls_mta_plugin.py"]
    assert "requiretls_mta/py.typed" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"requiretls_mta", "twisted"}

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # What is imported is compiled then; most of what is installed never is.
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=tmp_path)
    assert twistd_lists_us(python, tmp_path)
    assert run(python.with_name("requiretls-mta"), "version", cwd=tmp_path).startswith("requiretls-mta ")
    assert run(python.with_name("requiretls-mta-sendmail"), "-bp", cwd=tmp_path) == "the queue is empty\n"
    code = "from requiretls_mta.checks.pipeline import load_checks; print([c.name for c in load_checks(None)])"
    assert run(python, "-c", code, cwd=tmp_path) == "['dnswl', 'iprev', 'spf', 'dkim', 'arc', 'dmarc']\n"
    code = "from requiretls_mta.receive.responders import load_responders; print(load_responders())"
    assert run(python, "-c", code, cwd=tmp_path) == "[]\n"
    # What is missing from the dependencies would show here.
    run(python, "-c", "import requiretls_mta.service.tap, requiretls_mta.smtp.server", cwd=tmp_path)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "requiretls-mta", cwd=tmp_path)
    assert not twistd_lists_us(python, tmp_path)
    run(python, "-c", "import twisted.plugins, twisted.mail.smtp", cwd=tmp_path)


def test_an_editable_checkout_works(checkout, tmp_path):
    """`pip install -e .` puts the folder itself on the path, where twistd looks for plugins."""
    python, _ = environment(tmp_path)  # its dependencies were installed once already
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", checkout, cwd=tmp_path)
    assert twistd_lists_us(python, tmp_path)
    where = run(python, "-c", "import requiretls_mta; print(requiretls_mta.__file__)", cwd=tmp_path)
    assert Path(where.strip()) == checkout / "requiretls_mta" / "__init__.py"
