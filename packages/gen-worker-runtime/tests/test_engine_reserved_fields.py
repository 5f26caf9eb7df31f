"""`ctx.source` and `ctx.destination` say what a payload's reserved fields say, in inference too."""

from typing import Any, Literal

import msgspec
import pytest

from gen_worker import DestinationRepo, RequestContext, SourceRepo, inference_function
from gen_worker.testing import EndpointTester

WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


class Seen(msgspec.Struct):
    source: dict[str, Any]
    destination: dict[str, Any]
    hints: dict[str, Any]


def seen(ctx: RequestContext) -> Seen:
    return Seen(ctx.source, ctx.destination, ctx.execution_hints)


class Both(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo | None = None


class Older(msgspec.Struct):
    destination_repo: str = ""


class Renamed(msgspec.Struct):
    origin: SourceRepo = msgspec.field(name="source")


class Text(msgspec.Struct):
    source: str
    destination: Literal["fr", "de"] = "fr"


class Neither(msgspec.Struct):
    text: str = ""


@inference_function
def both(ctx: RequestContext, payload: Both) -> Seen:
    return seen(ctx)


@inference_function
async def both_async(ctx: RequestContext, payload: Both) -> Seen:
    return seen(ctx)


@inference_function
def older(ctx: RequestContext, payload: Older) -> Seen:
    return seen(ctx)


@inference_function
def renamed(ctx: RequestContext, payload: Renamed) -> Seen:
    return seen(ctx)


@inference_function
def translate(ctx: RequestContext, payload: Text) -> Seen:
    return seen(ctx)


@inference_function
def neither(ctx: RequestContext, payload: Neither) -> Seen:
    return seen(ctx)


def ask(function: Any, is_inline: bool, payload: dict[str, Any]) -> Seen:
    with EndpointTester(function, is_inline=is_inline) as tester:
        value: Seen = tester.run(function, payload).value
        return value


@WAYS
@pytest.mark.parametrize("function", [both, both_async])
def test_reserved_fields_reach_the_context(function: Any, is_inline: bool) -> None:
    source = {"ref": "acme/base", "attributes": {"dtype": "fp8"}}
    answer = ask(function, is_inline, {"source": source, "destination": {"ref": "me/tuned"}})
    assert answer.source == source
    assert answer.destination == {"ref": "me/tuned"}
    assert answer.hints["destination_repo"] == "me/tuned"


@WAYS
def test_what_is_left_out_is_empty(is_inline: bool) -> None:
    answer = ask(both, is_inline, {"source": {"ref": "acme/base"}})
    assert (answer.source, answer.destination) == ({"ref": "acme/base"}, {})


@WAYS
def test_the_older_field_is_a_destination(is_inline: bool) -> None:
    answer = ask(older, is_inline, {"destination_repo": "me/tuned"})
    assert (answer.source, answer.destination) == ({}, {"ref": "me/tuned"})


@WAYS
def test_the_name_in_the_payload_counts(is_inline: bool) -> None:
    assert ask(renamed, is_inline, {"source": {"ref": "acme/base"}}).source == {"ref": "acme/base"}


@WAYS
@pytest.mark.parametrize("function", [neither, older])
def test_a_field_the_type_does_not_have_says_nothing(function: Any, is_inline: bool) -> None:
    assert ask(function, is_inline, {"source": {"ref": "acme/base"}}).source == {}


@WAYS
def test_a_text_that_is_called_source_is_no_model(is_inline: bool) -> None:
    """It would be looked for on the hub, and is no ref."""
    answer = ask(translate, is_inline, {"source": "Bonjour le monde", "destination": "de"})
    assert (answer.source, answer.destination) == ({}, {})
