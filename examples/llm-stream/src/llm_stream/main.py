"""Streams what a causal language model of transformers writes."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from gen_worker import (
    Clamp,
    IncrementalTokenDelta,
    Repo,
    RequestContext,
    ValidationError,
    inference_function,
    iter_transformers_text_deltas,
)
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    AutoModelForCausalLM,
    AutoTokenizer,
)

WRITER = Repo("writer", "demo/tiny-llama")


class Prompt(msgspec.Struct):
    prompt: str
    max_new_tokens: Annotated[int, Clamp(1, 4096)] = 128
    temperature: Annotated[float, Clamp(0, 2)] = 0.0
    """0 takes the likeliest token each time: the same prompt gives the same text."""


@inference_function(models={"model": WRITER, "tokenizer": WRITER})
def write(
    ctx: RequestContext,
    model: AutoModelForCausalLM,
    tokenizer: AutoTokenizer,
    payload: Prompt,
) -> Iterator[IncrementalTokenDelta]:
    """Answer a prompt, or write on from it when the model knows no chats."""
    if not payload.prompt.strip():
        raise ValidationError("prompt is empty", path="$.prompt")
    options: dict[str, Any] = {"max_new_tokens": payload.max_new_tokens, "do_sample": False}
    if payload.temperature > 0:
        options.update(do_sample=True, temperature=payload.temperature)
    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs={**encode(tokenizer, payload.prompt).to(model.device), **options},
        cancel_checker=ctx.is_canceled,
        decode_kwargs={"skip_special_tokens": True},
    )
    for text in deltas:
        yield IncrementalTokenDelta(text=text)


def encode(tokenizer: Any, prompt: str) -> Any:
    """Return the prompt's tokens, within the model's chat template if it has one."""
    if tokenizer.chat_template is None:
        return tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
