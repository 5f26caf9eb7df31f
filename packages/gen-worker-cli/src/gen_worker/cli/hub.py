"""Serve a model hub of your own, and work with the models of any hub.

  serve                                 answer as a hub, from a folder
  push FOLDER owner/repo[:tag][#flavor] publish a folder
  pull REF [DIR]                        download a model into a folder
  ls [REF]                              list models with their tags and flavors
  tag REF TAG                           point a tag to what a ref means now
  gc                                    remove what no model refers to any more

All but serve and gc ask the hub that TENSORHUB_URL names, else the one on this machine, with the
token TENSORHUB_TOKEN. A push without a tag is for `prod`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["DEFAULT_DIR", "DEFAULT_PORT", "configure", "main", "users_hub"]

DEFAULT_DIR = "~/.local/share/gen-worker/hub"
DEFAULT_PORT = 8090
_ACTIONS = ("serve", "push", "pull", "ls", "tag", "gc")
_LOCAL = ("serve", "gc")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="what to do, see above")
    parser.add_argument("tokens", nargs="*", metavar="WORD", help="what to do it with")
    parser.add_argument(
        "--url", metavar="URL", help=f"the hub (default: http://127.0.0.1:{DEFAULT_PORT})"
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        default=DEFAULT_DIR,
        help=f"serve, gc: where the hub keeps everything (default: {DEFAULT_DIR})",
    )
    parser.add_argument(
        "--host",
        metavar="HOST",
        default="127.0.0.1",
        help="serve: the interface (default: 127.0.0.1); beyond this machine a token is needed",
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=_port,
        default=DEFAULT_PORT,
        help=f"serve: 0 picks a free one (default: {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--default-flavor",
        metavar="NAME",
        default="",
        help="push: which flavor the tag means without one (default: the pushed one)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="push: keep files of the flavor that the folder does not have",
    )
    parser.add_argument(
        "--older-than",
        metavar="HOURS",
        type=_hours,
        default=24.0,
        help="gc: leave alone what is younger, it may be on its way (default: 24)",
    )
    parser.add_argument(
        "--untagged", action="store_true", help="gc: also give up checkpoints no tag leads to"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, as is done wherever stdout is no terminal"
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours < 1e9:
        raise ValueError
    return hours


def users_hub() -> tuple[str, str]:
    """Return the URL and the token of the hub that this machine's user works with."""
    from gen_worker.models.settings import load_model_settings

    settings = load_model_settings()
    return settings.hub_url or f"http://127.0.0.1:{DEFAULT_PORT}", settings.hub_token


def main(args: argparse.Namespace) -> int:
    if args.url is not None and args.action in _LOCAL:
        from gen_worker.cli.failures import UsageError

        raise UsageError(f"{args.action} works on the folder --dir, not on --url")
    if args.action == "serve":
        from gen_worker.cli.hub_serve import serve

        return serve(args)
    from gen_worker.cli.hub_models import run

    return run(args)
