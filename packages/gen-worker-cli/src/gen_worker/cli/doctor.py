"""Find what would stop this endpoint from running on this machine, and how to mend it.

Looks at the project, its imports, the hardware its functions need, disks, settings, tokens and what
earlier runs left behind. Exit code 1 when something stops it, 0 otherwise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gen_worker.cli.options import add_project_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.diagnosis import Finding

__all__ = ["configure", "main"]

_MARKS = {"ok": "ok     ", "warning": "warning", "blocker": "STOPS  "}
_STYLES = {"ok": "green", "warning": "yellow", "blocker": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list of findings")
    parser.add_argument(
        "--verbose", action="store_true", help="also print the traceback of a failing import"
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.diagnosis import examine
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.results import ResultPrinter, wants_colour

    out = divert_stdout()
    findings = examine(args)
    if args.json:
        ResultPrinter(out, envelope=False).print("result", findings)
    else:
        coloured = wants_colour(out.fileno())
        for finding in findings:
            out.write(_text(finding, coloured=coloured, verbose=args.verbose).encode())
    sys.stderr.flush()
    return int(any(finding.level == "blocker" for finding in findings))


def _text(finding: Finding, *, coloured: bool, verbose: bool) -> str:
    mark = _MARKS[finding.level]
    if coloured:
        from gen_worker.cli.terminal import styled

        mark = styled(mark, _STYLES[finding.level])
    lines = [f"{mark}  {finding.check}: {finding.message}"]
    if finding.remedy:
        lines.append(f"         -> {finding.remedy}")
    if verbose and finding.detail:
        lines += [f"         {line}" for line in finding.detail.splitlines()]
    return "\n".join(lines) + "\n"
