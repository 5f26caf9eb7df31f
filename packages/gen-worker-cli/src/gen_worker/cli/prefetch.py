"""Download every model this project declares, without a GPU and without running `setup`.

What is here already is not downloaded again, and a download that was broken off is gone on with.
With --offline nothing is downloaded: the command verifies that everything is here. Exit code 3 when
a model cannot be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_project_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument(
        "--all-variants",
        action="store_true",
        help="also every model that a payload chooses between (dispatch tables)",
    )
    parser.add_argument("--offline", action="store_true", help="only verify what is here")
    parser.add_argument("--json", action="store_true", help="print events as JSON lines on stdout")


def main(args: argparse.Namespace) -> int:
    from gen_worker.cancel import CancelToken
    from gen_worker.cli.fetching import plan
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.prefetching import Prefetch
    from gen_worker.cli.project import open_endpoint
    from gen_worker.cli.signals import interruptible
    from gen_worker.models.assembly import open_store
    from gen_worker.models.settings import load_model_settings
    from gen_worker.models.sources import open_sources

    out = divert_stdout()
    endpoint = open_endpoint(args)
    found = plan(endpoint, all_variants=args.all_variants)
    settings, cancel = load_model_settings(), CancelToken()
    sources = open_sources(
        open_store(settings=settings), settings, may_resolve=True, is_offline=args.offline
    )
    with sources:
        prefetch = Prefetch(
            sources,
            out if args.json else None,
            max_downloads=settings.max_downloads,
            cancel=cancel,
        )
        return interruptible(lambda: prefetch.run(found), cancel)
