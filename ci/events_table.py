"""Compare the events in docs/endpoint-authoring.md with the catalog; `--update` writes them."""

import re
import sys

from ci.workspace import ROOT, report
from gen_worker.runtime.telemetry.catalog import table

DOCUMENT = "docs/endpoint-authoring.md"
TABLE = r"(?m)(^## Observability\n(?:(?!\||## ).*\n)*)(?:\|.*\n)*"


def main(arguments: list[str]) -> int:
    path = ROOT / DOCUMENT
    text = path.read_text()
    fresh = with_events(text)
    if "--update" in arguments:
        path.write_text(fresh)
        text = fresh
    problems = []
    if text != fresh:
        problems.append(f"{DOCUMENT} is not the catalog: run `nox -s settings -- --update`")
    return report("events", problems)


def with_events(text: str) -> str:
    """Return the document with the catalog as the first table of its section."""
    return re.sub(TABLE, lambda found: found[1] + table(), text, count=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
