"""Options several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = [
    "add_host_options",
    "add_output_options",
    "add_plan_options",
    "add_project_options",
    "byte_size",
    "separated",
    "whole_number",
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def byte_size(text: str) -> int:
    """Read an argument that is a number of bytes, with a unit or without: `5GB`, `2GiB`, `4096`."""
    import argparse

    word = text.strip().lower().removesuffix("b")
    number = word.rstrip("kmgti")
    unit = (_UNITS | _BINARY_UNITS).get(word[len(number) :])
    try:
        size = int(float(number) * (unit or 0))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}, and has to be a size such as 2GB")
    return size


def separated(text: str) -> str:
    """Read an argument of words with commas between them: spaces beside those do not count."""
    return ",".join(filter(None, (word.strip() for word in text.split(","))))


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argument's type: a whole number from `least` on, up to `most` if there is one."""
    asked = f"at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        import argparse

        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"it is {text!r}, and has to be a number {asked}")
        return value

    return read


def add_project_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--module`, which `gen_worker.cli.project.open_endpoint` reads."""
    parser.add_argument(
        "--config",
        metavar="PATH",
        help="the project's endpoint.toml (default: ./endpoint.toml); its folder is the project",
    )
    parser.add_argument(
        "--module",
        metavar="MODULE",
        help="import this module instead of endpoint.toml's `main`; the project is the current "
        "directory and needs no endpoint.toml",
    )


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Add `--offline`, `--device` and `--allow-publish`: what the local host may do."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="never use the network; a model that is not on this machine ends with exit code 3",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", default=None, help="what ctx.device is, such as cpu or cuda:1"
    )
    parser.add_argument(
        "--allow-publish",
        action="store_true",
        help="really publish; without it publishing calls only report what they would do",
    )


def add_output_options(parser: argparse.ArgumentParser, *, envelope: bool) -> None:
    """Add `--pretty`, `--events` and `--raw`; the last two set `args.envelope`.

    Args:
        parser: The command's parser.
        envelope: What happens without either.
    """
    parser.add_argument("--pretty", action="store_true", help="indent by two spaces")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--events",
        dest="envelope",
        action="store_true",
        default=envelope,
        help='print {"event": ..., "value": ...} lines' + (" (default)" if envelope else ""),
    )
    form.add_argument(
        "--raw",
        dest="envelope",
        action="store_false",
        help="print bare values" + ("" if envelope else " (default)"),
    )


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add `--plan`, `--yes`, `--offline` and `--json`, which all conversions of models have."""
    parser.add_argument("--plan", action="store_true", help="only print the plan")
    parser.add_argument("--yes", action="store_true", help="do not ask at a terminal")
    parser.add_argument("--offline", action="store_true", help="never fetch a model")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print events as JSON lines, as is done wherever stdout is no terminal",
    )
