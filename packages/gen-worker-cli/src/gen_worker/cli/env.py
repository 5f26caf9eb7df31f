"""List every setting: its value here, where that comes from, and what it means.

Values come from the environment, ./.env, /run/secrets and a configuration file; secrets are shown
as *** when they are set.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from gen_worker.settings import Explanation

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tokens", nargs="*", metavar="WORD", help="list only settings whose name or meaning has it"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def main(args: argparse.Namespace) -> int:
    rows = [row for row in _settings() if _matches(row[1], args.tokens)]
    if args.json:
        import msgspec

        documents = [_document(package, setting) for package, setting in rows]
        sys.stdout.write(msgspec.json.encode(documents, enc_hook=str).decode() + "\n")
        return 0
    for line in _lines(rows):
        print(line)
    return 0


def _settings() -> list[tuple[str, Explanation]]:
    from gen_worker.settings import explain, records

    return [(package, setting) for package, record in records() for setting in explain(record)]


def _matches(setting: Explanation, words: Sequence[str]) -> bool:
    text = " ".join((setting.name, *setting.aliases, setting.meaning)).lower()
    return all(word.lower() in text for word in words)


def _document(package: str, setting: Explanation) -> dict[str, Any]:
    return {"package": package, **setting._asdict()}


def _lines(rows: Sequence[tuple[str, Explanation]]) -> list[str]:
    """Return one heading per group, one line per setting, and a second one for its meaning."""
    width = max((len(setting.name) for _, setting in rows), default=0)
    lines: list[str] = []
    group = ""
    for _, setting in sorted(rows, key=lambda row: (row[1].group, row[1].name)):
        if setting.group != group:
            group = setting.group
            lines += ["", f"{group}:"] if lines else [f"{group}:"]
        value = "-" if setting.value in (None, "") else setting.value
        lines.append(f"  {setting.name:<{width}}  {value!s}  ({setting.source})")
        also = f" (also {', '.join(setting.aliases)})" if setting.aliases else ""
        lines.append(f"  {'':<{width}}  {setting.meaning}{also}")
        if setting.problem:
            lines.append(f"  {'':<{width}}  wrong: {setting.problem}")
    return lines
