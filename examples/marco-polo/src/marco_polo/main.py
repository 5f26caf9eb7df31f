"""Answers `marco` with `polo`, and refuses everything else."""

import msgspec
from gen_worker import RequestContext, ValidationError, inference_function


class Call(msgspec.Struct):
    text: str = ""


class Answer(msgspec.Struct):
    response: str


@inference_function
def marco_polo(ctx: RequestContext, payload: Call) -> Answer:
    """Answer the one word it knows."""
    if payload.text.strip().lower() == "marco":
        return Answer(response="polo")
    raise ValidationError(f"only 'marco' has an answer, not {payload.text!r}", path="$.text")
