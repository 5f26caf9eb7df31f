"""Which LoRA belongs to which pipeline is told by names; no library is needed for it."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker import Tensors, load_loras
from gen_worker.errors import ValidationError
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.lora import Adapter, LoraNotReadyError, adapter_file, check_fits
from gen_worker.models.lora.adapters import with_alphas


class Weights(SimpleNamespace):
    """Looks like a tensor."""

    def new_tensor(self, value: float) -> float:
        return value


def pipeline_of(*keys: str, **members: Any) -> Any:
    unet = SimpleNamespace(state_dict=lambda: dict.fromkeys(keys))
    return SimpleNamespace(components={"unet": unet, "scheduler": object()}, **members)


def adapter_of(*keys: str) -> Adapter:
    return Adapter("a", dict.fromkeys(keys), 1.0, "acme/style")


@pytest.mark.parametrize(
    "suffix",
    [
        "lora_A.weight",
        "lora_B.weight",
        "lora_down.weight",
        "lora_up.weight",
        "alpha",
        "lora.down.weight",
        "lora_linear_layer.up.weight",
        "lora_magnitude_vector",
    ],
)
def test_every_spelling_of_an_adapter_is_known(suffix: str) -> None:
    check_fits(pipeline_of("mid.to_q.weight"), adapter_of(f"unet.mid.to_q.{suffix}"))


def test_a_converted_attention_layer_is_known() -> None:
    known = pipeline_of("mid.to_q.weight", "mid.to_out.0.weight")
    check_fits(
        known,
        adapter_of(
            "unet.mid.processor.to_q_lora.down.weight", "unet.mid.processor.to_out_lora.up.weight"
        ),
    )


def test_targets_that_are_not_there_are_named_five_at_most() -> None:
    adapter = adapter_of(*(f"unet.block{i}.lora_A.weight" for i in range(8)))
    with pytest.raises(ValidationError, match=r"'unet\.block4' and 3 more") as caught:
        check_fits(pipeline_of("mid.weight"), adapter)
    assert "block5" not in str(caught.value)
    assert "acme/style" in str(caught.value)


def test_a_format_that_the_pipeline_cannot_convert() -> None:
    def convert(tensors: dict[str, Any]) -> Any:
        raise KeyError("no")

    with pytest.raises(ValidationError, match="in no format"):
        check_fits(
            pipeline_of("mid.weight", lora_state_dict=convert), adapter_of("mid.lora_A.weight")
        )


def test_an_alpha_is_added_only_where_there_is_none() -> None:
    tensors = {
        "x.lora_down.weight": Weights(shape=(4, 8)),
        "y.lora_down.weight": Weights(shape=(16, 8)),
        "y.alpha": 1.0,
        "z.lora_A.weight": Weights(shape=(2, 8)),
    }
    found = with_alphas(tensors)
    assert {key: found[key] for key in found if key.endswith("alpha")} == {
        "x.alpha": 4.0,
        "y.alpha": 1.0,
    }
    assert "x.alpha" not in tensors


def test_pickles_are_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "lora.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFileFormat):
        adapter_file(tmp_path)


def test_the_root_name_and_what_it_says_before_torch_is_needed(tmp_path: Path) -> None:
    lora = SimpleNamespace(tensors=Tensors("x"))
    with pytest.raises(LoraNotReadyError, match="lora_0"), load_loras(object(), [lora]):
        pytest.fail("the block must not run")
    with load_loras(object(), []) as same:
        assert type(same) is object
    empty = json.dumps({}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(empty)) + empty)
    assert adapter_file(tmp_path) == str(tmp_path / "x.safetensors")
