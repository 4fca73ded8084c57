"""Killed at random moments: what was acknowledged is there, whole; what was not leaves no half."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from requiretls_mta.queue.shard import Shard
from tests.queue.crashing import SIZES, octets_of

ROUNDS = 10
ROOT = Path(__file__).parent.parent.parent


def killed_run(folder, seed, lifetime):
    """Lines of a process that was killed `lifetime` seconds after its store was open."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.queue.crashing", str(folder), seed],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with child:
        lines = [child.stdout.readline()]
        assert lines == [b"open\n"]
        time.sleep(lifetime)
        child.kill()
        lines += child.stdout.readlines()
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


def test_killed_at_random_moments(tmp_path):
    """Every acknowledged message is there and whole; a settled one is gone, with exactly one report in its place."""
    rng = random.Random()
    accepted, settled, begun = set(), set(), set()
    for number in range(ROUNDS):
        for line in killed_run(tmp_path / "0", str(number), rng.uniform(0.0, 0.4)):
            assert line[0] != "broken", line
            if line[0] == "begin":
                begun.add(line[1])
            elif line[0] == "accepted":
                accepted.add(line[1])
            elif line[0] == "settled":
                settled.add(line[1])
        check(tmp_path / "0", accepted, settled, begun)
    assert len(accepted) > 20
    assert len(settled) > 10


def check(folder, accepted, settled, begun):
    with Shard(folder, wall=time.time) as shard:
        rows = {row.id: shard.message(row.id) for row in shard.rows()}
        assert shard._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        files = {path.name for path in shard.files.folder.iterdir()}
        for message in rows.values():
            octets = message.body.read(0, message.body.size)
            assert octets in [octets_of(message.id, size) for size in SIZES], f"{message.id} is torn"
        originals = {key for key, message in rows.items() if message.origin == "smtp"}
        reported = [message.parent for message in rows.values() if message.origin == "report"]
        assert len(set(reported)) == len(reported), "two reports of one message"
        assert not originals & set(reported), "a message is queued and reported"
        assert accepted <= originals | set(reported), "an acknowledged message is lost"
        assert settled <= set(reported), "a settlement is lost"
        assert originals | set(reported) <= begun, "a message that nobody sent"
        large = {key for key, message in rows.items() if message.body.size > shard.settings.row_limit}
        assert files == large, "files without messages, or the other way round"
