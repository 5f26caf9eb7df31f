"""LoRAs change a pipeline's images while they are attached, and nothing afterwards."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker import LoraSpec, Tensors
from gen_worker.errors import ValidationError
from gen_worker.models import LoraChoice
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.loading import load, plan
from gen_worker.models.lora import (
    adapter_file,
    attach_overlays,
    load_loras,
    overlay_names,
    read_adapter,
)

torch: Any = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of diffusers with NumPy 2; not of ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Of peft, whenever a second adapter is attached.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


def pixels(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
    return pipeline("a horse", generator=generator, **options).images[0]


def in_thread(call: Callable[..., Any], *arguments: Any) -> None:
    thread = threading.Thread(target=call, args=arguments)
    thread.start()
    thread.join()


def item(path: Any, **fields: Any) -> Any:
    return SimpleNamespace(tensors=Tensors("lora", local_path=str(path)), **fields)


@pytest.fixture(scope="module", params=["stable_diffusion", "stable_diffusion_xl", "flux"])
def pipeline(request: pytest.FixtureRequest, models: Callable[..., Path]) -> Any:
    return load(plan(models(request.param))).object


@pytest.fixture(scope="module")
def sd(models: Callable[..., Path]) -> Any:
    return load(plan(models("stable_diffusion"))).object


@pytest.fixture
def lora(pipeline: Any, tmp_path: Path) -> str:
    from gen_worker.models.tiny import tiny_lora

    return tiny_lora(tmp_path / "lora", pipeline)


@pytest.fixture
def sd_lora(sd: Any, tmp_path: Path) -> str:
    from gen_worker.models.tiny import tiny_lora

    return tiny_lora(tmp_path / "lora", sd)


@pytest.fixture
def unchanged(sd: Any) -> Iterator[Any]:
    """Check that the pipeline is afterwards what it was before, module by module."""
    keys = list(sd.unet.state_dict())
    before = pixels(sd)
    yield before
    assert list(sd.unet.state_dict()) == keys
    assert (pixels(sd) == before).all()


def test_a_lora_changes_the_image_and_leaves_nothing_behind(pipeline: Any, lora: str) -> None:
    before = pixels(pipeline)
    with load_loras(pipeline, [item(lora)]) as same:
        assert same is pipeline
        attached = pixels(pipeline)
    assert (attached != before).any()
    assert pipeline.get_list_adapters() == {}
    assert (pixels(pipeline) == before).all()


def test_the_weight_counts(sd: Any, sd_lora: str, unchanged: Any) -> None:
    images = {}
    for weight in (0.0, 0.5, 1.0):
        with load_loras(sd, [item(sd_lora, weight=weight)]):
            images[weight] = pixels(sd)
    assert abs(images[0.0] - unchanged).max() < 1e-5
    assert (images[0.5] != images[1.0]).any()


def test_several_at_once(sd: Any, sd_lora: str, unchanged: Any, tmp_path: Path) -> None:
    from gen_worker.models.tiny import tiny_lora

    other = tiny_lora(tmp_path / "other", sd, seed=7)
    with load_loras(sd, [item(sd_lora, weight=0.4), item(other, adapter_name="mine")]):
        assert sd.get_active_adapters() == ["lora_0", "mine"]


def test_the_older_field_is_read_too(sd: Any, sd_lora: str, unchanged: Any) -> None:
    from gen_worker import Asset

    with load_loras(sd, [LoraSpec(file=Asset("x", local_path=sd_lora), adapter_name="a")]):
        assert sd.get_active_adapters() == ["a"]


def test_no_loras_touch_nothing() -> None:
    with load_loras(object(), []) as same:
        assert type(same) is object


def test_it_is_detached_when_the_call_fails(sd: Any, sd_lora: str, unchanged: Any) -> None:
    def fail() -> None:
        with load_loras(sd, [item(sd_lora)]):
            raise KeyError("of the author")

    with pytest.raises(KeyError):
        fail()
    assert sd.get_list_adapters() == {}


def test_it_is_detached_when_attaching_fails_half_way(
    sd: Any, sd_lora: str, unchanged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr(type(sd), "set_adapters", refuse)
        with pytest.raises(RuntimeError, match="half way"), load_loras(sd, [item(sd_lora)]):
            pytest.fail("the block must not run")
    assert sd.get_list_adapters() == {}


def test_hooks_are_off_while_modules_change_and_on_while_the_author_calls(
    sd: Any, sd_lora: str, unchanged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_worker.models import low_vram

    seen: list[str] = []

    @contextmanager
    def without_hooks(pipeline: Any) -> Iterator[None]:
        layers = len(list(pipeline.unet.modules()))
        seen.append("off")
        yield
        seen.append("more" if len(list(pipeline.unet.modules())) > layers else "fewer")

    with monkeypatch.context() as patch:
        patch.setattr(low_vram, "without_hooks", without_hooks)
        with load_loras(sd, [item(sd_lora)]):
            assert seen == ["off", "more"]
        assert seen == ["off", "more", "off", "fewer"]


def test_the_pipelines_lock_is_held(sd: Any, sd_lora: str, unchanged: Any) -> None:
    from gen_worker.models.low_vram import lock_for_pipeline

    def is_free() -> bool:
        found: list[bool] = []

        def ask() -> None:
            found.append(lock_for_pipeline(sd).acquire(blocking=False))
            if found[0]:
                lock_for_pipeline(sd).release()

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return found[0]

    with load_loras(sd, [item(sd_lora)]):
        assert not is_free()
    assert is_free()


def test_adapters_of_the_authors_own_stay(sd: Any, sd_lora: str, tmp_path: Path) -> None:
    from gen_worker.models.tiny import tiny_lora

    own = tiny_lora(tmp_path / "own", sd, seed=9)
    sd.load_lora_weights(own, adapter_name="own")
    sd.set_adapters(["own"], adapter_weights=[0.3])
    try:
        before = pixels(sd)
        with load_loras(sd, [item(sd_lora)]):
            assert sd.get_active_adapters() == ["own", "lora_0"]
            assert (pixels(sd) != before).any()
        assert sd.get_list_adapters() == {"unet": ["own"]}
        assert sd.get_active_adapters() == ["own"]
        assert (pixels(sd) == before).all()
    finally:
        sd.unload_lora_weights()


def test_one_for_another_model_is_refused_before_anything_is_touched(
    sd: Any, sd_lora: str, unchanged: Any, models: Callable[..., Path]
) -> None:
    flux = load(plan(models("flux"))).object
    with (
        pytest.raises(ValidationError, match=r"does not fit FluxPipeline|in no format"),
        load_loras(flux, [item(sd_lora)]),
    ):
        pytest.fail("the block must not run")
    assert flux.get_list_adapters() == {}


def test_modules_that_are_not_there_are_named(sd: Any, tmp_path: Path, unchanged: Any) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for index in range(7):
        for part, shape in (("A", (2, 8)), ("B", (8, 2))):
            key = f"unet.down_blocks.{index + 5}.resnets.0.conv.lora_{part}.weight"
            tensors[key] = torch.zeros(shape)
    save_file(tensors, tmp_path / "x.safetensors")
    with (
        pytest.raises(ValidationError, match=r"down_blocks\.5\.resnets.* and 2 more"),
        load_loras(sd, [item(tmp_path / "x.safetensors")]),
    ):
        pytest.fail("the block must not run")


def test_a_file_that_is_no_adapter(sd: Any, models: Callable[..., Path]) -> None:
    weights = models("stable_diffusion") / "vae" / "diffusion_pytorch_model.safetensors"
    with (
        pytest.raises(ValidationError, match="no tensors of an adapter"),
        load_loras(sd, [item(weights)]),
    ):
        pytest.fail("the block must not run")


def test_a_file_that_is_not_here_or_a_pickle(sd: Any, sd_lora: str, tmp_path: Path) -> None:
    nowhere = SimpleNamespace(tensors=Tensors("lora"))
    with pytest.raises(RuntimeError, match="no local file"), load_loras(sd, [nowhere]):
        pytest.fail("the block must not run")
    torch.save({}, tmp_path / "x.safetensors")
    with (
        pytest.raises(UnsafeFileFormat),
        load_loras(sd, [item(tmp_path / "x.safetensors")]),
    ):
        pytest.fail("the block must not run")


def test_two_of_one_name_and_a_weight_that_is_no_number(sd: Any, sd_lora: str) -> None:
    twice = [item(sd_lora, adapter_name="a"), item(sd_lora, adapter_name="a")]
    with pytest.raises(ValidationError, match="same name 'a'"), load_loras(sd, twice):
        pytest.fail("the block must not run")
    with (
        pytest.raises(ValidationError, match="nan"),
        load_loras(sd, [item(sd_lora, weight=float("nan"))]),
    ):
        pytest.fail("the block must not run")


def test_kohya_names_get_their_alpha_and_work(sd: Any, sd_lora: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {}
    for key, tensor in load_file(sd_lora).items():
        module, _, part = key.removeprefix("unet.").rpartition(".lora")
        name = {"_A.weight": "lora_down.weight", "_B.weight": "lora_up.weight"}[part]
        tensors[f"lora_unet_{module.replace('.', '_')}.{name}"] = tensor
    file = tmp_path / "kohya.safetensors"
    save_file(tensors, file)
    adapter = read_adapter(file, name="a")
    alphas = {key: float(x) for key, x in adapter.tensors.items() if key.endswith(".alpha")}
    assert len(alphas) * 2 == len(tensors)
    assert set(alphas.values()) == {2.0}
    images = []
    for path in (file, sd_lora):
        with load_loras(sd, [item(path)]):
            images.append(pixels(sd))
    assert abs(images[0] - images[1]).max() < 1e-5


def test_what_peft_saved_itself(sd: Any, sd_lora: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "peft"
    folder.mkdir()
    tensors = {
        f"base_model.model.{key.removeprefix('unet.')}": tensor
        for key, tensor in load_file(sd_lora).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    with load_loras(sd, [item(folder / "adapter_model.safetensors", weight=0.5)]):
        scaled = pixels(sd)
    with load_loras(sd, [item(sd_lora)]):
        plain = pixels(sd)
    assert abs(scaled - plain).max() < 1e-4


class TestOverlays:
    def test_the_file_is_chosen_in_order(self, tmp_path: Path, sd_lora: str) -> None:
        names = ("z/other.safetensors", "pytorch_lora_weights.safetensors")
        for name in (*names, "adapter_model.safetensors"):
            (tmp_path / "o" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sd_lora, tmp_path / "o" / name)
            assert adapter_file(tmp_path / "o") == str(tmp_path / "o" / name)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValidationError, match="no safetensors file"):
            adapter_file(tmp_path / "empty")

    def test_attached_under_names_of_their_own(self, sd: Any, sd_lora: str, unchanged: Any) -> None:
        loras = [LoraChoice(ref="acme/style", weight=0.7)]
        folder = Path(sd_lora).parent
        with attach_overlays(sd, loras, [folder], request_id="r1.x", parameter="pipe"):
            assert sd.get_active_adapters() == ["cozy_lora_r1_x_pipe_0"]
            assert (pixels(sd) != unchanged).any()

    def test_entered_in_one_thread_and_left_in_another(
        self, sd: Any, sd_lora: str, unchanged: Any
    ) -> None:
        loras = [LoraChoice(ref="acme/style")]
        first = attach_overlays(sd, loras, [sd_lora], request_id="r1", parameter="p")
        second = attach_overlays(sd, loras, [sd_lora], request_id="r2", parameter="p")
        in_thread(first.__enter__)
        waiting = threading.Thread(target=second.__enter__)
        waiting.start()
        with load_loras(sd, [item(sd_lora, adapter_name="mine")]):  # of the author, in the call
            assert sd.get_active_adapters() == ["cozy_lora_r1_p_0", "mine"]
        assert sd.get_active_adapters() == ["cozy_lora_r1_p_0"]
        in_thread(first.__exit__, None, None, None)
        waiting.join()
        assert sd.get_active_adapters() == ["cozy_lora_r2_p_0"]
        second.__exit__(None, None, None)

    def test_names(self) -> None:
        assert overlay_names(2, request_id="r", parameter="p") == [
            "cozy_lora_r_p_0",
            "cozy_lora_r_p_1",
        ]

    def test_a_pipeline_that_takes_none(self, sd_lora: str) -> None:
        with (
            pytest.raises(ValidationError, match="takes no LoRAs"),
            attach_overlays(
                object(), [LoraChoice(ref="a/b")], [sd_lora], request_id="r", parameter="p"
            ),
        ):
            pytest.fail("the block must not run")
