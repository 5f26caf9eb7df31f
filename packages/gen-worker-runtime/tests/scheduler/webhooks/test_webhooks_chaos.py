"""A scheduler that is killed at any moment: every end is told, whatever the receiver does."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker.runtime.scheduler.webhooks import WebhookSecrets, verify

PEER = Path(__file__).parents[1] / "webhooks_process.py"
KILLS = 5


@pytest.mark.chaos
def test_every_end_is_told_and_no_other(
    folder: Path, seed: int, make_receiver: Any, answered: Any
) -> None:
    rng = random.Random(f"receiver-{seed}")
    receiver = make_receiver(lambda _: answered(rng.choice((200, 204, 204, 204, 500, 503, 302))))
    folder.mkdir()
    command = [sys.executable, str(PEER), str(folder), str(seed), str(KILLS), receiver.url]
    print(f"seed {seed}: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "done 0", done.stdout
    facts = [msgspec.json.decode(line, type=tuple[str, str]) for line in lines]
    submitted = {request_id for what, request_id in facts if what == "submitted"}
    ended = {request_id for what, request_id in facts if what == "ended"}
    told, ids = tell_of(receiver, WebhookSecrets(folder / "webhook-secrets").of(""))
    assert submitted
    assert submitted - told == set()
    assert ended - told == set()
    assert len(set(ids.values())) == len(ids)


def tell_of(receiver: Any, secrets: Any) -> tuple[set[str], dict[tuple[str, str], str]]:
    """Return of whose end was told, and the id of each event, which never changes."""
    told: set[str] = set()
    ids: dict[tuple[str, str], str] = {}
    while not receiver.received.empty():
        one = receiver.next()
        webhook_id = verify(one.body, one.headers, secrets)
        shown = one.json
        assert ids.setdefault((shown["request_id"], shown["event"]), webhook_id) == webhook_id
        if shown["event"] == "completed":
            assert shown["status"] == "succeeded"
            told.add(shown["request_id"])
    return told, ids
