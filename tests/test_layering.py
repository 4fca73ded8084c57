"""The floors of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "requiretls_mta"
EVERYTHING = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("_")}
ALLOWED = {
    "message": set(),
    "dns": set(),
    "tls": {"message", "dns"},
    "checks": {"message", "dns"},
    "queue": {"message"},
    "smtp": {"message", "tls", "checks"},
    "report": {"message", "tls"},
    "receive": {"message", "checks", "queue", "smtp"},
    "relay": {"message", "dns", "tls", "queue", "smtp", "report"},
    "delivery": {"message"},
    "web": EVERYTHING - {"service", "cli", "web"},
    "service": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
}
# Only these may load the global reactor; importing twisted.mail.smtp installs it.
REACTOR_USERS = {"requiretls_mta.smtp._stock", "requiretls_mta.service.workers"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_folder_has_its_floor():
    """A new folder must say what it stands on."""
    assert set(ALLOWED) == EVERYTHING


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_a_folder_imports_only_from_the_floors_below(module, path):
    """An import upwards, or to a neighbour that is not named, is a mistake in the plan."""
    own = module.split(".")[1] if module.count(".") >= 1 else None
    for target in imports(path):
        parts = target.split(".")
        if parts[0] != "requiretls_mta" or len(parts) < 2 or own is None or parts[1] == own:
            continue
        if parts[1] in EVERYTHING:
            assert parts[1] in ALLOWED[own], f"{module} must not import {target}"


def test_no_module_loads_the_global_reactor():
    """Applications install their reactor before ours is touched; stock twisted.mail.smtp would install one."""
    stock = {"requiretls_mta.smtp._stock"}
    while True:  # whatever imports _stock at module level loads it too; only the server classes may
        more = {m for m, p in modules() if any(t in stock for t in module_level_imports(p))} - stock
        if not more:
            break
        stock |= more
    assert all(m.startswith("requiretls_mta.smtp.") for m in stock), stock
    free = [m for m, _ in modules() if m not in stock | REACTOR_USERS]
    code = f"import importlib, sys\nfor m in {free!r}: importlib.import_module(m)\n"
    code += "assert 'twisted.internet.reactor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def module_level_imports(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
