"""Command lines that are read without argparse mean what argparse says they mean."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gen_worker.cli.command import COMMANDS, Command, build_parser, parse_with_argparse
from gen_worker.cli.plain_words import PlainParser

ALL_OPTIONS = sorted(
    {
        option
        for command in COMMANDS
        for action in build_parser(command)._actions
        for option in action.option_strings
    }
)
VALUES = ["-", "", "1", "0", "-1", "nan", "a=b", "two words", "--raw=1", "-o=a", "--", "fish", "=x"]
WORDS = st.lists(st.sampled_from([*ALL_OPTIONS, *VALUES]) | st.text(max_size=3), max_size=6)


def plain(command: Command, words: list[str]) -> dict[str, object] | None:
    parser = PlainParser()
    command.load().configure(parser)
    read = parser.parse(words)
    return None if read is None else vars(read)


@pytest.mark.claims("front.startup")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@settings(max_examples=60, deadline=None)
@given(words=WORDS)
@example(words=[])
@example(words=["a", "--pretty", "b"])
@example(words=["--raw", "--events"])
@example(words=["--timeout", "1.5", "x=1"])
@example(words=["--config"])
def test_a_plain_command_line_is_read_as_argparse_reads_it(
    command: Command, words: list[str]
) -> None:
    read = plain(command, words)
    if read is not None:
        assert read == vars(parse_with_argparse(command, list(words)))


@pytest.mark.claims("front.startup")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run", ["marco"]),
        ("run", ["text=marco", "-", "--timeout", "3", "--raw", "--config", "a/endpoint.toml"]),
        ("run", ["--no-attach", "marco", "--pretty"]),
        ("serve", ["--no-stdin", "--socket", "s", "--eager"]),
        ("invoke", ["echo", "text=a"]),
        ("describe", []),
    ],
)
def test_what_is_typed_every_day_needs_no_argparse(name: str, words: list[str]) -> None:
    command = next(command for command in COMMANDS if command.name == name)
    assert plain(command, words) is not None


@pytest.mark.claims("front.startup")
@pytest.mark.parametrize(
    "words",
    [["--help"], ["--", "a"], ["--timeout=3"], ["-1"], ["--timeout", "soon"], ["--raw", "--raw"]],
)
def test_anything_else_is_for_argparse(words: list[str]) -> None:
    command = next(command for command in COMMANDS if command.name == "run")
    assert plain(command, words) is None
