"""`iter_transformers_text_deltas` with a real model, a real tokenizer and a real `generate`."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gen_worker import RequestContext, iter_transformers_text_deltas

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran"]
PATIENCE_S = 60.0
"""How long a test waits for what must happen; reaching it is a failure."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Tokens are words, and all 256 bytes: sampled text holds broken and split characters."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    # Word tokens take much of the vocabulary, or sampled bytes would hardly ever make a space.
    pieces = [*WORDS, *(f"Ġ{word}" for word in WORDS), *(f"Ġ{word}s" for word in WORDS)]
    vocabulary = ["<pad>", "<eos>", *alphabet, *pieces]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: number for number, token in enumerate(vocabulary)}, [])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>"
    )


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        n_positions=1024,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.GPT2LMHeadModel(config).eval()


class Probe:
    """A logits processor: called in `generate`'s thread, once per token, before it is chosen."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.steps = 0
        self._at_step = at_step

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.steps += 1
        self._at_step(self.steps)
        return scores


def options(tokenizer: Any, *, seed: int = 0, tokens: int = 24, **more: Any) -> dict[str, Any]:
    """Return what `generate` is called with; `probe` observes it."""
    torch.manual_seed(seed)
    inputs = tokenizer("the cat sat", return_tensors="pt")
    probe = more.pop("probe", None)
    if probe is not None:
        more["logits_processor"] = transformers.LogitsProcessorList([probe])
    return {**inputs, "max_new_tokens": tokens, "do_sample": True, **more}


def generating() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "transformers-generate"]


@pytest.fixture(autouse=True)
def no_generation_is_left_running() -> Iterator[None]:
    yield
    for thread in generating():
        thread.join(PATIENCE_S)
    assert generating() == []


@pytest.mark.parametrize("skip_prompt", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_pieces_are_the_text_of_a_plain_call(
    model: Any, tokenizer: Any, seed: int, skip_prompt: bool
) -> None:
    kwargs = options(tokenizer, seed=seed, tokens=80)
    plain = model.generate(**kwargs)[0]
    start = kwargs["input_ids"].shape[1] if skip_prompt else 0
    expected = tokenizer.decode(plain[start:], skip_special_tokens=True)
    pieces = list(
        iter_transformers_text_deltas(
            model=model,
            tokenizer=tokenizer,
            generation_kwargs=options(tokenizer, seed=seed, tokens=80),
            skip_prompt=skip_prompt,
            decode_kwargs={"skip_special_tokens": True},
        )
    )
    assert "".join(pieces) == expected
    assert all(pieces)
    assert len(pieces) > 1


def test_a_piece_arrives_while_the_model_still_generates(model: Any, tokenizer: Any) -> None:
    has_arrived = threading.Event()

    def hold(step: int) -> None:
        if step == 30:
            assert has_arrived.wait(PATIENCE_S), "no piece came before the 30th token"

    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer, tokens=40, probe=Probe(hold)),
    )
    assert next(deltas)
    has_arrived.set()
    assert list(deltas)


def test_a_cancel_stops_the_model_at_its_next_token(model: Any, tokenizer: Any) -> None:
    ctx = RequestContext("text")
    is_canceled = threading.Event()

    def hold(step: int) -> None:
        if step == 30:
            assert is_canceled.wait(PATIENCE_S), "the test never canceled"

    probe = Probe(hold)
    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer, tokens=900, min_new_tokens=900, probe=probe),
        cancel_checker=ctx.is_canceled,
        join_timeout=PATIENCE_S,
    )
    assert next(deltas)
    ctx.cancel()
    is_canceled.set()
    assert list(deltas) == []
    assert generating() == []
    assert probe.steps <= 30


def test_a_cancel_before_the_first_token_yields_nothing(model: Any, tokenizer: Any) -> None:
    probe = Probe()
    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer, tokens=900, min_new_tokens=900, probe=probe),
        cancel_checker=lambda: True,
        join_timeout=PATIENCE_S,
    )
    assert list(deltas) == []
    assert probe.steps <= 1


def test_a_reader_who_leaves_early_stops_the_model(model: Any, tokenizer: Any) -> None:
    has_left = threading.Event()

    def hold(step: int) -> None:
        if step == 30:
            assert has_left.wait(PATIENCE_S), "the test never left"

    probe = Probe(hold)
    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer, tokens=900, min_new_tokens=900, probe=probe),
        join_timeout=0.0,
    )
    assert next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    has_left.set()
    for thread in generating():
        thread.join(PATIENCE_S)
    assert probe.steps <= 30


def test_an_error_inside_generate_comes_after_the_text_before_it(
    model: Any, tokenizer: Any
) -> None:
    def fail(step: int) -> None:
        if step == 41:
            raise FloatingPointError("logits are not finite")

    plain = model.generate(**options(tokenizer, tokens=40, min_new_tokens=40))[0]
    expected = tokenizer.decode(plain[11:])
    kwargs = options(tokenizer, tokens=900, min_new_tokens=900, probe=Probe(fail))
    assert kwargs["input_ids"].shape[1] == 11
    pieces: list[str] = []
    deltas = iter_transformers_text_deltas(
        model=model, tokenizer=tokenizer, generation_kwargs=kwargs
    )
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        pieces.extend(deltas)
    assert "".join(pieces) == expected


def test_options_that_generate_refuses_are_its_own_error(model: Any, tokenizer: Any) -> None:
    deltas = iter_transformers_text_deltas(
        model=model, tokenizer=tokenizer, generation_kwargs=options(tokenizer, nonsense=1)
    )
    with pytest.raises(ValueError, match="nonsense"):
        list(deltas)


def test_a_first_token_slower_than_the_timeout_is_waited_for(model: Any, tokenizer: Any) -> None:
    """The streamer itself gives up after `timeout`; here it has passed five times."""
    looks = 0
    may_begin = threading.Event()

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 6:
            may_begin.set()
        return False

    def hold(step: int) -> None:
        if step == 1:
            assert may_begin.wait(PATIENCE_S), "nobody waited for the first token"

    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer, probe=Probe(hold)),
        cancel_checker=look,
        timeout=0.01,
    )
    assert "".join(deltas)


@pytest.mark.parametrize("timeout", [None, 0.01, 0.5])
def test_every_timeout_gives_the_same_text(
    model: Any, tokenizer: Any, timeout: float | None
) -> None:
    plain = model.generate(**options(tokenizer))[0]
    deltas = iter_transformers_text_deltas(
        model=model,
        tokenizer=tokenizer,
        generation_kwargs=options(tokenizer),
        timeout=timeout,
    )
    assert "".join(deltas) == tokenizer.decode(plain[11:])


def test_the_callers_own_stopping_criteria_still_count(model: Any, tokenizer: Any) -> None:
    class AfterFive(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 16)

    probe = Probe()
    kwargs = options(tokenizer, tokens=900, min_new_tokens=900, probe=probe)
    criteria = transformers.StoppingCriteriaList([AfterFive()])
    kwargs["stopping_criteria"] = criteria
    list(iter_transformers_text_deltas(model=model, tokenizer=tokenizer, generation_kwargs=kwargs))
    assert probe.steps == 5
    assert len(criteria) == 1, "the caller's own list was changed"


def test_greedy_and_cached_generation_stream_the_same_text(model: Any, tokenizer: Any) -> None:
    kwargs: dict[str, Any] = {"do_sample": False, "use_cache": True, "repetition_penalty": 1.7}
    plain = model.generate(**options(tokenizer, **kwargs))[0]
    deltas = iter_transformers_text_deltas(
        model=model, tokenizer=tokenizer, generation_kwargs=options(tokenizer, **kwargs)
    )
    assert "".join(deltas) == tokenizer.decode(plain[11:])


def test_many_streams_side_by_side_do_not_mix(model: Any, tokenizer: Any) -> None:
    kwargs: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.7, "tokens": 40}
    prompts = ["the cat", "a mat", "then it ran", "and on"]

    def stream(prompt: str) -> Iterator[str]:
        return iter_transformers_text_deltas(
            model=model,
            tokenizer=tokenizer,
            generation_kwargs={
                **options(tokenizer, **kwargs),
                **tokenizer(prompt, return_tensors="pt"),
            },
        )

    alone = ["".join(stream(prompt)) for prompt in prompts]
    streams = [stream(prompt) for prompt in prompts]
    firsts = [next(one) for one in streams]  # all four run now
    together = [first + "".join(rest) for first, rest in zip(firsts, streams, strict=True)]
    assert together == alone
    assert len(set(alone)) == len(prompts)
