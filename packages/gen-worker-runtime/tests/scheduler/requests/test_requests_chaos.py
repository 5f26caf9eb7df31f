"""A scheduler that is killed at any moment: what clients were told is so, and each ends once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from gen_worker.runtime.scheduler import Ledger

PEER = Path(__file__).parents[1] / "requests_process.py"
KILLS = 6


@pytest.mark.chaos
async def test_every_accepted_request_ends_exactly_once(folder: Path, seed: int) -> None:
    folder.mkdir()
    command = [sys.executable, str(PEER), str(folder), str(seed), str(KILLS)]
    print(f"seed {seed}: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "done 0", done.stdout
    told: defaultdict[str, dict[int, str]] = defaultdict(dict)
    accepted, canceled = set[str](), set[str]()
    for line in lines:
        what, request_id, *event = msgspec.json.decode(line)
        if what == "told":
            event_id, name = event
            assert event_id not in told[request_id], line
            told[request_id][event_id] = name
        else:
            (accepted if what == "submitted" else canceled).add(request_id)
    assert accepted
    ledger = await Ledger.open(folder)
    try:
        assert await ledger.unfinished() == ()
        for request_id in accepted | canceled | set(told):
            record = await ledger.record(request_id)
            assert record is not None, request_id
            stored = {one.event_id: one.name.decode() for one in await ledger.events(record.seq)}
            assert told[request_id].items() <= stored.items()
            names = Counter(stored.values())
            assert names["result"] + names["error"] == 1
            assert stored[len(stored)] in ("result", "error")
            assert (record.status == "succeeded") == names["result"]
            if request_id in canceled:
                # A result that was under way when it was canceled is one.
                assert record.status in ("canceled", "succeeded")
        (marks,) = await ledger.ask(lambda db: db.execute("SELECT count(*) FROM marks").fetchone())
        assert marks == 0
    finally:
        await ledger.close()
