"""Serve the scheduler, and manage the tokens of its callers.

  serve                      take requests over HTTP and give them to workers, until it is stopped
  tokens add [SCOPE ...]     make a token; scopes are invoke (without any), read, deploy,
                             worker and admin
  tokens ls                  list tokens, those that are revoked, too
  tokens rm TOKEN_ID         have a token hold no longer

`gen-worker up` starts one by itself, with a hub and workers. All that a scheduler keeps is in its
data folder: stopped, or killed, it goes on where it was when it is started again. Where other
machines can connect, callers need a token; the file scheduler/token in the folder has one that may
do everything. More settings have environment variables: see `gen-worker env`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.platform.options import add_json_option

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("serve", "tokens"), help="what to do, see above")
    parser.add_argument("tokens", nargs="*", metavar="WORD", help="what to do it with")
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="",
        help="where everything is kept (default: GEN_WORKER_DATA_DIR, else "
        "~/.local/share/gen-worker)",
    )
    parser.add_argument(
        "--http",
        metavar="ADDRESS",
        default="",
        help="serve: host:port of the HTTP API; port 0 picks a free one (default: "
        "GEN_WORKER_SCHEDULER_HTTP, else 127.0.0.1:8787)",
    )
    parser.add_argument(
        "--workers",
        metavar="ADDRESS",
        default="",
        help="serve: host:port that workers connect to (default: GEN_WORKER_SCHEDULER_WORKERS, "
        "else 127.0.0.1:8788)",
    )
    parser.add_argument("--name", metavar="TEXT", default="", help="tokens add: what it is for")
    parser.add_argument(
        "--owner",
        metavar="OWNER",
        default="",
        help="tokens add: whose requests and releases it is for (default: everybody's)",
    )
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    if args.action == "serve":
        from gen_worker.cli.scheduler_serve import serve

        return serve(args)
    from gen_worker.cli.scheduler_tokens import run

    return run(args)
