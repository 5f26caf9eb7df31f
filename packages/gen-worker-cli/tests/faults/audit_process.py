"""Compares what clients were told with a scheduler's database, for the tests that run this file.

`<data folder> <record>...`: prints counts as JSON, or what is wrong and returns 1. It uses nothing
of the scheduler's own code: only SQLite, and the table of `client_process.py`.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter, defaultdict
from typing import Any

from client_process import order

EVENT_BITS = 24  # must match the scheduler's schema


class Audit:
    """All that is in the database, and what clients say of it."""

    def __init__(self, folder: str) -> None:
        database = sqlite3.connect(f"file:{folder}/scheduler/scheduler.db?mode=ro", uri=True)
        columns = "seq, request_id, key, status, ended_at"
        self.requests = {row[1]: row for row in database.execute(f"SELECT {columns} FROM requests")}
        self.events: defaultdict[int, list[tuple[int, str, str]]] = defaultdict(list)
        for key, name, data in database.execute("SELECT key, name, data FROM events ORDER BY key"):
            said = (key & ((1 << EVENT_BITS) - 1), bytes(name).decode(), bytes(data).decode())
            self.events[key >> EVENT_BITS].append(said)
        (self.marks,) = database.execute("SELECT count(*) FROM marks").fetchone()
        self.problems: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def expect(self, is_so: object, *what: object) -> None:
        if not is_so:
            self.problems.append(" ".join(map(str, what)))

    def check_all(self) -> None:
        """Each request that was accepted has ended once, and nothing came after its end."""
        self.expect(self.marks == 0, "marks of requests that have ended:", self.marks)
        for request_id, (seq, _, _, status, ended_at) in self.requests.items():
            events = self.events[seq]
            self.expect(ended_at is not None, request_id, "has not ended:", status)
            names = [name for _, name, _ in events]
            ends = [name for name in names if name in ("result", "error")]
            self.expect(len(ends) == 1 and ends == names[-1:], request_id, "ended as", names)
            numbers = [number for number, _, _ in events]
            self.expect(numbers == list(range(1, len(numbers) + 1)), request_id, numbers)
            self.outcomes[status] += 1

    def check_client(self, path: str) -> set[str]:
        """What a client was told is what is on disk; return the requests that it knows."""
        accepted: defaultdict[str, list[str]] = defaultdict(list)
        ended: Counter[str] = Counter()
        with open(path) as file:
            lines = [json.loads(line) for line in file]
        for what, key, request_id, *end in lines:
            if request_id not in accepted[key]:
                accepted[key].append(request_id)
            if request_id not in self.requests:
                self.expect(False, request_id, "of", key, "is lost")
            elif what == "ended":
                ended[key] += 1
                self.check_end(key, request_id, *end)
        for key, ids in accepted.items():
            self.expect(ended[key] == 1, key, "was told of", ended[key], "ends:", ids)
            found = sorted((self.requests[one][0], one) for one in ids if one in self.requests)
            for _, request_id in found[:-1]:  # only what may be tried again gives its key away
                self.expect(self.is_retryable(request_id), key, "has several requests:", ids)
        return {request_id for ids in accepted.values() for request_id in ids}

    def check_end(self, key: str, request_id: str, name: str, data: str, items: list[str]) -> None:
        events = self.events[self.requests[request_id][0]]
        self.expect((name, data) == events[-1][1:], request_id, name, data, "but", events[-1])
        begun = max((at for at, one in enumerate(events) if one[1] == "restarted"), default=-1)
        kept = [text for _, what, text in events[begun + 1 :] if what == "delta"]
        self.expect(items == kept, request_id, "was told", items, "but", kept)
        seed, number = map(int, key.split("-"))
        function, payload = order(seed, number)
        if name == "result":
            self.check_output(function, payload, json.loads(data)["output"], items)
        self.expect(function != "wrong" or name == "error", request_id, "cannot succeed")

    def check_output(
        self, function: str, payload: dict[str, Any], output: Any, items: list[str]
    ) -> None:
        if function == "spell":
            numbers = [json.loads(item)["number"] for item in items]
            self.expect(numbers == list(range(payload["count"])), payload, numbers)
        else:
            self.expect(output == {"number": 2 * payload["number"]}, function, payload, output)

    def is_retryable(self, request_id: str) -> bool:
        _, name, data = self.events[self.requests[request_id][0]][-1]
        return name == "error" and '"retryable":true' in data.replace(" ", "")


def main(folder: str, *records: str) -> int:
    audit = Audit(folder)
    audit.check_all()
    known: set[str] = set()
    for record in records:
        known |= audit.check_client(record)
    for request_id in audit.requests.keys() - known:
        # Its client was killed before it heard of it, and asked for another once it had failed.
        key = audit.requests[request_id][2]
        audit.expect(not key and audit.is_retryable(request_id), request_id, "is nobody's", key)
    if audit.problems:
        print("\n".join(audit.problems[:50]))
        return 1
    print(json.dumps({"requests": len(known), **audit.outcomes}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
