"""Print a completion script for your shell.

bash: gen-worker completion bash > ~/.local/share/bash-completion/completions/gen-worker
zsh:  gen-worker completion zsh > "${fpath[1]}/_gen-worker"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]

_FILE_METAVARS = ("PATH", "DIR", "FILE")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to complete for")


def main(args: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(_whole_parser(), shell=args.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Return one parser with every command, as the script has to know them all."""
    import argparse

    import shtab

    from gen_worker.cli.command import COMMANDS

    parser = argparse.ArgumentParser(prog="gen-worker")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help)
        command.load().configure(sub)
        for action in sub._actions:
            if action.metavar in _FILE_METAVARS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own hook
    return parser
