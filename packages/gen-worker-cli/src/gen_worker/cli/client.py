"""Write a typed Python client for the functions of a running host.

  generate [URL]                        Structs and one method per function, as one module

URL is that of `gen-worker serve --http` or of a platform (default: GEN_WORKER_URL, else the one
that runs on this machine); GEN_WORKER_TOKEN is the token, where one is needed. The same functions
give the same module, so that it can be kept with the code that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]

_ACTIONS = ("generate",)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="what to do, see above")
    parser.add_argument("url", nargs="?", default="", metavar="URL", help="the host")
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="-",
        help="write the module to a file, which is replaced (default: stdout)",
    )
    parser.set_defaults(data="")


def main(args: argparse.Namespace) -> int:
    import sys

    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.settings import CliSettings
    from gen_worker.client import Client, RetryPolicy, generate
    from gen_worker.settings import load

    url = find_api(args).url
    retry = RetryPolicy(attempts=2)
    with Client(url, load(CliSettings).platform_token, retry=retry) as client:
        text = generate(client.functions())
    if args.out == "-":
        sys.stdout.write(text)
    else:
        _write(args.out, text)
        print(f"gen-worker client: wrote {args.out}", file=sys.stderr)
    return 0


def _write(path: str, text: str) -> None:
    """Have a file with this text, whole or not at all."""
    import os

    from gen_worker.cli.failures import UsageError

    part = f"{path}.{os.urandom(4).hex()}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(part, path)
    except OSError as error:
        if os.path.exists(part):
            os.unlink(part)
        raise UsageError(f"{path!r} cannot be written: {error.strerror}") from error
