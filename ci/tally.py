"""Sum the test runs of all nox sessions into one closing line like pytest's own.

Usage: python -m ci.tally RESULTS REPORT DURATION_S: a directory of JUnit files named after their
sessions, the report nox writes, and how long it all took. RESULTS/again holds the same of those
tests that failed at first: they count as they ended then, and once more as rerun.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

WIDTH = 80
ORDER = ("failed", "passed", "skipped", "error", "rerun")


def main(results: str, report: str, duration_s: str) -> int:
    suites = {path.stem: _counts(path) for path in Path(results).glob("*.xml")}
    for path in Path(results, "again").glob("*.xml"):
        first = suites.get(path.stem, Counter())  # a run that crashed leaves no file
        suites[path.stem] = _after_rerun(first, _counts(path))
    sessions: list[dict[str, Any]] = json.loads(Path(report).read_text())["sessions"]
    counts: Counter[str] = sum(suites.values(), Counter())
    counts["error"] += sum(_failed_untold(session, suites) for session in sessions)
    print(closing_line(counts, float(duration_s)))
    return 0


def file_stem(session: str) -> str:
    """Return the name of a session's JUnit file: `tests(core-3.11)` gives `tests-core-3.11`."""
    return session.replace("(", "-").replace(")", "")


def closing_line(counts: Counter[str], duration_s: float) -> str:
    """Return `==== 3 failed, 97 passed, 1 skipped in 61.20s (0:01:01) ====`."""
    told = [f"{counts[kind]} {_plural(kind, counts[kind])}" for kind in ORDER if counts[kind]]
    minutes, seconds = divmod(int(duration_s), 60)
    clock = f" ({minutes // 60}:{minutes % 60:02}:{seconds:02})" if duration_s > 60 else ""
    return f" {', '.join(told) or 'no tests ran'} in {duration_s:.2f}s{clock} ".center(WIDTH, "=")


def _counts(path: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        tests, failed, errors, skipped = (
            int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")
        )
        counts.update(failed=failed, error=errors, skipped=skipped)
        counts["passed"] += tests - failed - errors - skipped
    return counts


def _after_rerun(first: Counter[str], again: Counter[str]) -> Counter[str]:
    """Count tests that were run twice as they ended the second time."""
    counts = Counter(first)
    counts["rerun"] = counts.pop("failed", 0) + counts.pop("error", 0)
    return counts + again


def _failed_untold(session: dict[str, Any], suites: dict[str, Counter[str]]) -> bool:
    """Whether a session failed without a failing test to show for it."""
    name = next(iter(session["signatures"]), session["name"])
    told = suites.get(file_stem(name), Counter())
    broken = session["result"] in ("failed", "aborted")
    return broken and not told["failed"] + told["error"]


def _plural(kind: str, number: int) -> str:
    return "errors" if kind == "error" and number > 1 else kind


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
