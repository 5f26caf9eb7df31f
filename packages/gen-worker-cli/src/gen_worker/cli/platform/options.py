"""Options of the commands that ask a platform. Data only: `--help` imports nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_json_option", "add_platform_options"]


def add_platform_options(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--data`, which `api.find_api` reads."""
    parser.add_argument(
        "--url",
        metavar="URL",
        default="",
        help="the platform (default: GEN_WORKER_URL, else the one that runs on this machine); "
        "GEN_WORKER_TOKEN is the token, where one is needed",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="",
        help="data folder of a platform on this machine (default: GEN_WORKER_DATA_DIR, else "
        "~/.local/share/gen-worker)",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print JSON, as is done wherever stdout is no terminal"
    )
