"""A call of a pipeline or a model stops at its next step, and tells how far it is."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, DeadlineExceededError
from gen_worker.models.loading import load, plan, watch

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of diffusers with NumPy 2 and this torch; not of ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


@pytest.fixture(scope="module")
def pipeline(models: Callable[..., Path]) -> Any:
    pipeline = load(plan(models("stable_diffusion"))).object
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model(models: Callable[..., Path]) -> Any:
    return load(plan(models("llama"))).object


def draw(pipeline: Any, steps: int = 4, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": steps, "height": 32, "width": 32, **options}
    return pipeline("a horse", generator=generator, output_type="np", **options).images[0]


def write(model: Any, tokens: int = 5, **options: Any) -> Any:
    prompt = torch.tensor([[1, 40, 41]])
    mask = torch.ones_like(prompt)
    return model.generate(
        prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **options
    )


def test_steps_are_reported_and_the_image_is_the_same(pipeline: Any) -> None:
    seen: list[tuple[int, int]] = []
    plain = draw(pipeline)
    with watch(pipeline, CancelToken(), lambda done, total: seen.append((done, total))):
        watched = draw(pipeline)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (plain == watched).all()
    draw(pipeline)
    assert len(seen) == 4


def test_a_cancel_stops_at_the_next_step_and_leaves_the_pipeline_usable(pipeline: Any) -> None:
    token = CancelToken()
    began: list[int] = []

    def count(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        began.append(step)
        if step == 1:
            token.cancel("deadline")
        return kwargs

    with watch(pipeline, token), pytest.raises(DeadlineExceededError):
        draw(pipeline, 20, callback_on_step_end=count)
    assert began == [0, 1]
    assert draw(pipeline).shape == (32, 32, 3)


def test_a_canceled_call_does_not_begin(pipeline: Any, model: Any) -> None:
    token = CancelToken()
    token.cancel()
    for call, value in ((draw, pipeline), (write, model)):
        with watch(value, token), pytest.raises(CanceledError):
            call(value)


def test_an_objects_type_is_untouched(pipeline: Any, model: Any) -> None:
    with watch([pipeline, model], CancelToken()):
        assert type(pipeline) is diffusers.StableDiffusionPipeline
        assert type(model) is transformers.LlamaForCausalLM
        assert "progress_bar" not in vars(pipeline)
        assert "generate" not in vars(model)


def test_a_pipeline_that_the_author_derived_is_watched(pipeline: Any) -> None:
    seen: list[int] = []
    other = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    with watch(pipeline, CancelToken(), lambda done, _: seen.append(done)):
        other("a horse", image=torch.zeros(1, 3, 32, 32), strength=1.0, num_inference_steps=3)
    assert seen == [1, 2, 3]


def test_tokens_are_steps(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    plain = write(model)
    with watch(model, CancelToken(), lambda done, total: seen.append((done, total))):
        watched = write(model)
    assert (plain == watched).all()
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize(("beams", "rows"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_tokens_are_counted_at_the_end(model: Any, beams: int, rows: int) -> None:
    counts: list[int] = []
    prompt = torch.tensor([[1, 40, 41]] * rows)
    with watch(model, CancelToken(), generated=counts.append):
        for tokens in (5, 2):
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                num_beams=beams,
                do_sample=False,
            )
            assert made.shape == (rows, 3 + tokens)
    assert counts == [5 * rows, 2 * rows]


def test_an_author_may_generate_whatever_there_is(model: Any) -> None:
    """What comes of `custom_generate` is the author's; the tokens are counted all the same."""
    counts: list[int] = []

    def generate(model: Any, input_ids: Any, stopping_criteria: Any, **kwargs: Any) -> int:
        for _ in range(3):
            input_ids = torch.cat([input_ids, input_ids[:, :1]], dim=1)
            stopping_criteria(input_ids, None)
        return 42

    with watch(model, CancelToken(), generated=counts.append):
        assert write(model, custom_generate=generate) == 42
    assert counts == [3]


def test_tokens_of_a_canceled_call_count_too(model: Any) -> None:
    token = CancelToken()
    counts: list[int] = []

    def stop(input_ids: Any, scores: Any, **_: Any) -> Any:
        if input_ids.shape[1] == 6:
            token.cancel()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    criteria = transformers.StoppingCriteriaList([stop])
    with watch(model, token, generated=counts.append), pytest.raises(CanceledError):
        write(model, 50, stopping_criteria=criteria)
    assert counts == [3]


def test_a_cancel_stops_generate_within_a_token(model: Any) -> None:
    token = CancelToken()
    lengths: list[int] = []

    def stop(input_ids: Any, scores: Any, **_: Any) -> Any:
        lengths.append(input_ids.shape[1])
        if len(lengths) == 3:
            token.cancel()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    with watch(model, token), pytest.raises(CanceledError):
        write(model, 50, stopping_criteria=transformers.StoppingCriteriaList([stop]))
    assert lengths == [4, 5, 6]


def test_the_authors_own_criteria_still_stop(model: Any) -> None:
    def stop(input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.ones(input_ids.shape[0], dtype=torch.bool)

    criteria = transformers.StoppingCriteriaList([stop])
    with watch(model, CancelToken()):
        assert write(model, 50, stopping_criteria=criteria).shape[1] == 4
    assert len(criteria) == 1


def test_a_call_in_a_thread_of_the_authors_own_is_found_by_its_object(model: Any) -> None:
    seen: list[int] = []
    with watch(model, CancelToken(), lambda done, _: seen.append(done)):
        thread = threading.Thread(target=write, args=(model, 3))
        thread.start()
        thread.join()
    assert seen == [1, 2, 3]


def test_a_component_that_the_author_calls_belongs_to_its_pipeline(model: Any) -> None:
    class Chat:
        components: ClassVar[dict[str, Any]] = {"llm": model}

    seen: list[int] = []
    with watch(Chat(), CancelToken(), lambda done, _: seen.append(done)):
        thread = threading.Thread(target=write, args=(model, 2))
        thread.start()
        thread.join()
    assert seen == [1, 2]


def test_two_calls_of_one_model_are_told_apart(model: Any) -> None:
    first, second = CancelToken(), CancelToken()
    seen: dict[str, list[int]] = {"first": [], "second": []}

    def call(name: str, token: CancelToken) -> None:
        with watch(model, token, lambda done, _: seen[name].append(done)):
            if name == "first":
                copy_context().run(call, "second", second)
                first.cancel()
                with pytest.raises(CanceledError):
                    write(model, 2)
            else:
                write(model, 2)

    call("first", first)
    assert seen == {"first": [], "second": [1, 2]}


def test_a_block_left_in_another_context_forgets_its_watch(model: Any) -> None:
    seen: list[int] = []
    block = watch(model, CancelToken(), lambda done, _: seen.append(done))
    copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    write(model, 2)
    assert seen == []
