"""`python -m gen_worker.discovery`: import the project and write endpoint.lock.

The lock goes to stdout, and nothing else does; messages go to stderr. Exit code 0 means a lock was
written (or, with --check, that the given one is up to date), 1 that something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.discovery.discover import load_endpoint_toml
from gen_worker.discovery.isolated import DEFAULT_TIMEOUT_S, build_lock
from gen_worker.manifest import LockError, dump_lock, parse_lock, write_lock
from gen_worker.problems import Problem, ProblemsError
from gen_worker.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["main"]

_INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gen_worker.discovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the project's directory or its endpoint.toml "
        "(default: ENDPOINT_TOML_PATH, else the current directory)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the lock here, atomically")
    parser.add_argument(
        "--check", metavar="FILE", help="write nothing; exit 1 unless this lock is up to date"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the lock as JSON, and problems as JSON lines"
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out submodules that cannot be imported instead of failing",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_TIMEOUT_S,
        help="how long importing may take (default: %(default)g)",
    )
    parser.add_argument("--debug", action="store_true", help="show the tracebacks behind problems")
    return parser


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 1e9:
            return value
    raise argparse.ArgumentTypeError(f"not a number of seconds above 0: {text!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        project = load_endpoint_toml(args.root)
        built = build_lock(project, skip_broken=args.skip_broken, timeout_s=args.timeout)
        _tell(built.warnings, args, "warning")
        return _check(built.table, args.check) if args.check else _deliver(built.table, args)
    except ProblemsError as error:
        _tell(error.problems, args, "error")
    except SettingsError as error:
        _tell([Problem(code="failed", message=str(error))], args, "error")
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 1


def _deliver(table: dict[str, Any], args: argparse.Namespace) -> int:
    if args.output:
        try:
            write_lock(args.output, table)
        except OSError as error:
            message = f"{args.output} cannot be written, {error.strerror}"
            raise LockError([Problem(code="failed", message=message)]) from error
        names = ", ".join(function["name"] for function in table["functions"])
        print(f"wrote {args.output}: {names}", file=sys.stderr)
    else:
        text = msgspec.json.encode(table).decode() + "\n" if args.json else dump_lock(table)
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def _check(table: dict[str, Any], path: str) -> int:
    from gen_worker.manifest_changes import changes_between

    changes = changes_between(parse_lock(path), table)
    for change in changes:
        print(change, file=sys.stderr)
    if changes:
        print(f"{path} is out of date: build it anew with -o {path}", file=sys.stderr)
    return 1 if changes else 0


def _tell(problems: Iterable[Problem], args: argparse.Namespace, level: str) -> None:
    for problem in problems:
        if args.json:
            row = {"level": level, **msgspec.to_builtins(problem)}
            if not args.debug:
                row.pop("detail", None)
            print(msgspec.json.encode(row).decode(), file=sys.stderr)
            continue
        print(f"{level}: {problem}", file=sys.stderr)
        if args.debug and problem.detail:
            print(problem.detail.rstrip("\n"), file=sys.stderr)
