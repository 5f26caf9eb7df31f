"""Calibration runs a model block by block, and sees what goes into its layers when it runs whole.

Legend: T tokens of a window.
"""

from __future__ import annotations

import gc
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

from gen_worker.cancel import CancelToken  # noqa: E402
from gen_worker.conversion import open_checkpoint, write_safetensors  # noqa: E402
from gen_worker.conversion.dataset.schema import DatasetError  # noqa: E402
from gen_worker.conversion.dataset.writing import DatasetWriter  # noqa: E402
from gen_worker.conversion.errors import (  # noqa: E402
    ConversionImplementationError,
    ConversionInputError,
)
from gen_worker.conversion.lazy import combine, computed  # noqa: E402
from gen_worker.conversion.quantize import (  # noqa: E402
    CalibrationData,
    Policy,
    QuantizedCheckpoint,
    QuantizeOptions,
    calibrate_checkpoint,
    calibration_data,
    quantize_checkpoint,
    recipe_for,
)
from gen_worker.conversion.quantize.calibration_text import token_windows  # noqa: E402
from gen_worker.errors import CanceledError  # noqa: E402
from gen_worker.models.tiny import tiny_llama  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
LLAMA_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
STATIC = QuantizeOptions(activations="static")
GPTQ = QuantizeOptions(group_size=32)


class Calibrated(NamedTuple):
    """A model, what it is calibrated with, and its tokenizer."""

    model: Path
    data: CalibrationData
    tokenizer: Any

    def made(self, method: str, options: QuantizeOptions, folder: Path) -> QuantizedCheckpoint:
        source = open_checkpoint(self.model)
        made = quantize_checkpoint(source, method, None, options)
        calibrate_checkpoint(made, source, self.model, self.data, folder)
        return made


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("text") / "rows.txt"
    rows = (f"the fox number {n} jumps over {n * n} lazy dogs, {n % 7} times" for n in range(200))
    path.write_text("\n\n".join(rows))
    return path


@pytest.fixture(scope="module")
def llama(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """A model whose features go together, as those of trained models do."""
    folder: Path = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, initializer_range=0.1)
    model = transformers.LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.input_layernorm.weight.data *= torch.logspace(0.5, -1.5, LLAMA["hidden_size"])
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return Calibrated(folder, calibration_data(text, samples=24, length=64), tokenizer)


def outputs(model: Any, tokens: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=tokens).logits


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def largest_inputs(model: Any, windows: Any) -> dict[str, float]:
    """Return what goes into each layer of a whole model, by name."""
    seen: dict[str, float] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(_: Any, args: Any) -> None:
            seen[name] = max(seen.get(name, 0.0), float(args[0].abs().max()))

        return look

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for window_T in windows:
            model(input_ids=window_T[None])
    return seen


def parameters() -> list[Any]:
    """Return all that have memory, of any model."""
    found = [one for one in gc.get_objects() if type(one) is torch.nn.Parameter]
    return [one for one in found if one.device.type == "cpu"]


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**LLAMA))


def _t5() -> Any:
    sizes = {"vocab_size": 320, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 3}
    return transformers.T5EncoderModel(
        transformers.T5Config(**sizes, num_heads=4, feed_forward_proj="gated-gelu")
    )


def _clip() -> Any:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPTextConfig(**LLAMA, **special, max_position_embeddings=40)
    return transformers.CLIPTextModelWithProjection(config)


def _gemma() -> Any:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.Gemma3TextConfig(
        **LLAMA, num_key_value_heads=2, head_dim=16, sliding_window=16, layer_types=kinds
    )
    return transformers.Gemma3ForCausalLM(config)


@pytest.mark.parametrize("make", [_bert, _t5, _clip, _gemma])
def test_inputs_of_layers_are_those_of_the_whole_model(
    make: Callable[[], Any], llama: Calibrated, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "model")
    source = open_checkpoint(tmp_path / "model")
    policy = Policy(recipe=recipe_for("text_encoder"))
    made = quantize_checkpoint(source, "fp8", policy, STATIC)
    folder = tmp_path / "work"
    tokenizer = llama.tokenizer
    calibrate_checkpoint(made, source, tmp_path / "model", llama.data, folder, tokenizer=tokenizer)
    model = make().from_pretrained(tmp_path / "model").eval()
    limit = getattr(model.config, "max_position_embeddings", 0)
    windows = token_windows(llama.data, tokenizer, max_length=limit)
    seen = largest_inputs(model, windows)
    assert len(made.report.quantized) >= 18
    for name in made.report.quantized:
        module = name.removesuffix(".weight")
        told = float(made.tensors[f"{module}.input_scale"].tensor())
        assert told * 448 == pytest.approx(seen[module], rel=1e-5), name


def test_gptq_changes_outputs_less_than_rounding_to_nearest(
    llama: Calibrated, tmp_path: Path
) -> None:
    windows = token_windows(llama.data, llama.tokenizer)
    source = open_checkpoint(llama.model)
    plain = quantize_checkpoint(source, "int4:wo", None, GPTQ)
    fitted = llama.made("int4:gptq", GPTQ, tmp_path)
    wanted = outputs(loaded(llama.model), windows)
    errors = []
    for made in (plain, fitted):
        model = loaded(llama.model)
        values = {name: made.dequantized(name).tensor() for name in made.report.quantized}
        model.load_state_dict({**model.state_dict(), **values})
        errors.append(float((outputs(model, windows) - wanted).norm() / wanted.norm()))
    assert fitted.report.quantized == plain.report.quantized
    assert 0 < errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_layer_of_the_first_block_is_nearer_than_rounding_to_nearest(
    by_activation: bool, symmetric: bool, llama: Calibrated, tmp_path: Path
) -> None:
    options = QuantizeOptions(group_size=32, symmetric=symmetric, by_activation=by_activation)
    plain = quantize_checkpoint(
        open_checkpoint(llama.model),
        "int4:wo",
        None,
        QuantizeOptions(group_size=32, symmetric=symmetric),
    )
    fitted = llama.made("int4:gptq", options, tmp_path)
    model = loaded(llama.model)
    inputs: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.update({name: args[0].flatten(0, -2)})
            )
    outputs(model, token_windows(llama.data, llama.tokenizer))
    names = [name for name in plain.report.quantized if ".layers.0." in name]
    assert len(names) == 7
    for name in names:
        rows_TC, weight = inputs[name.removesuffix(".weight")], model.get_parameter(name)
        errors = [
            float((rows_TC @ (made.dequantized(name).tensor() - weight).T).detach().norm())
            for made in (plain, fitted)
        ]
        assert errors[1] < errors[0], name


def test_the_same_data_give_the_same_bytes(llama: Calibrated, tmp_path: Path) -> None:
    first, again = (llama.made("int4:gptq", GPTQ, tmp_path / name) for name in "ab")
    other = llama._replace(data=calibration_data(llama.data.path, samples=24, length=64, seed=1))
    differs = other.made("int4:gptq", GPTQ, tmp_path / "c")
    names = [name for name in first.tensors if name.endswith("_packed")]
    assert names
    for name in names:
        assert torch.equal(first.tensors[name].tensor(), again.tensors[name].tensor()), name
    assert any(
        not torch.equal(first.tensors[name].tensor(), differs.tensors[name].tensor())
        for name in names
    )


def test_a_pass_that_was_broken_off_goes_on(llama: Calibrated, tmp_path: Path) -> None:
    whole = llama.made("int4:gptq", GPTQ, tmp_path / "whole")
    source = open_checkpoint(llama.model)
    made = quantize_checkpoint(source, "int4:gptq", None, GPTQ)
    folder, token = tmp_path / "work", CancelToken()
    finished = folder / "00000" / "model.safetensors"

    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        if finished.exists() and (folder / "00001.hidden").exists():
            token.cancel()

    with pytest.raises(CanceledError):
        calibrate_checkpoint(
            made, source, llama.model, llama.data, folder, progress=stop, token=token
        )
    before = finished.stat().st_mtime_ns
    calibrate_checkpoint(made, source, llama.model, llama.data, folder)
    assert finished.stat().st_mtime_ns == before
    for name, tensor in whole.tensors.items():
        assert torch.equal(made.tensors[name].tensor(), tensor.tensor()), name
    assert not list(folder.glob("*.hidden"))


def test_results_of_other_data_do_not_count(llama: Calibrated, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("one row, and no more")
    few = llama._replace(data=calibration_data(tmp_path / "few.txt"))
    made = few.made("fp8", STATIC, tmp_path / "other")
    llama.made("fp8", STATIC, tmp_path)
    again = few.made("fp8", STATIC, tmp_path)
    assert (tmp_path / "few.txt").exists()
    name = "model.layers.2.mlp.down_proj.input_scale"
    assert torch.equal(made.tensors[name].tensor(), again.tensors[name].tensor())


def test_one_block_is_in_memory_at_a_time(llama: Calibrated, tmp_path: Path) -> None:
    source = open_checkpoint(llama.model)
    made = quantize_checkpoint(source, "int8", None, STATIC)
    others = {id(one) for one in parameters()}
    most = 0

    def look(done: int, _total: int) -> None:
        nonlocal most
        if done % 12 == 1:
            most = max(most, sum(one.numel() for one in parameters() if id(one) not in others))

    calibrate_checkpoint(made, source, llama.model, llama.data, tmp_path, progress=look)
    block = sum(t.elements for name, t in source.items() if ".layers.0." in name)
    norms = sum(t.elements for name, t in source.items() if len(t.shape) == 1)
    assert block < most <= block + source["model.embed_tokens.weight"].elements + norms


def test_models_that_do_not_run_block_by_block_are_refused(
    llama: Calibrated, tmp_path: Path
) -> None:
    config = transformers.GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    source = open_checkpoint(tmp_path / "model")
    made = quantize_checkpoint(source, "fp8", None, STATIC)
    with pytest.raises(ConversionInputError, match=r"c_attn\.weight' is no linear layer"):
        calibrate_checkpoint(
            made,
            source,
            tmp_path / "model",
            llama.data,
            tmp_path / "work",
            tokenizer=llama.tokenizer,
        )


def test_what_is_not_calibrated_is_not_written(llama: Calibrated, tmp_path: Path) -> None:
    made = quantize_checkpoint(open_checkpoint(llama.model), "int4:gptq", None, GPTQ)
    with pytest.raises(ConversionImplementationError, match="calibrate_checkpoint"):
        write_safetensors(made.tensors, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_counted(llama: Calibrated, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    tiny_llama(model)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    save_file(tensors, model / "model.safetensors")
    made = llama._replace(model=model).made("int4:gptq", GPTQ, tmp_path / "work")
    found = write_safetensors(made.tensors, tmp_path / "out").nonfinite
    assert {key: tuple(count) for key, count in found.items()} == {f"{name}_packed": (1, 0)}


def test_rows_of_a_dataset_are_windows_of_one_length(llama: Calibrated, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", {"n": "int64", "text": "string"}) as writer:
        for number in range(30):
            writer.write({"n": number, "text": f"row number {number}"})
    rows = calibration_data(tmp_path / "data", samples=20, length=16)
    (tmp_path / "rows.txt").write_text("\n".join(f"row number {n}" for n in range(30)))
    lines = calibration_data(tmp_path / "rows.txt", samples=20, length=16)
    made = token_windows(rows, llama.tokenizer)
    assert torch.equal(made, token_windows(lines, llama.tokenizer))
    assert made.shape[1] == 16
    assert len(made) > 5
    assert rows.digest != lines.digest
    assert token_windows(rows, llama.tokenizer, max_length=8).shape[1] == 8


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "does not exist"),
        ("rows.parquet", b"PAR1", "no file of text"),
        ("rows.txt", b"\xff\xfe\x00", "no text in UTF-8"),
        ("rows.txt", b"\n\n", "has no text"),
    ],
)
def test_data_that_are_no_text_are_refused(
    name: str, content: bytes | None, words: str, llama: Calibrated, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConversionInputError, match=words):
        token_windows(calibration_data(tmp_path / name), llama.tokenizer)


def test_a_folder_without_rows_is_refused(llama: Calibrated, tmp_path: Path) -> None:
    os.makedirs(tmp_path / "bare")
    (tmp_path / "bare" / "README.md").write_text("rows are to come")
    with pytest.raises(DatasetError, match="has no rows"):
        token_windows(calibration_data(tmp_path / "bare"), llama.tokenizer)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LLAMA_CONFIG, "has no tensor"),
        ({**LLAMA_CONFIG, "num_hidden_layers": 2}, "its class has 2 blocks"),
        ({"model_type": "nothing-here"}, "its class cannot be made"),
        (
            {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 3},
            "has no blocks 'model.layers.'",
        ),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    config: dict[str, Any], words: str, llama: Calibrated, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 3, **config}))
    lacking = "layers.2.self_attn.q_proj"
    source = {n: t for n, t in open_checkpoint(llama.model).items() if lacking not in n}
    made = quantize_checkpoint(source, "fp8", None, STATIC)
    with pytest.raises(ConversionInputError, match=words):
        calibrate_checkpoint(
            made, source, model, llama.data, tmp_path / "work", tokenizer=llama.tokenizer
        )


def test_layers_that_are_given_what_is_no_number_are_named(
    llama: Calibrated, tmp_path: Path
) -> None:
    source = dict(open_checkpoint(llama.model))
    name = "model.layers.1.input_layernorm.weight"
    source[name] = combine([(1e38, source[name]), (1e38, source[name])], "F32")
    made = quantize_checkpoint(source, "fp8", None, STATIC)
    with pytest.raises(ConversionInputError, match=r"layers\.1\.self_attn.*infinite values"):
        calibrate_checkpoint(made, source, llama.model, llama.data, tmp_path)


def _rows_of(tensor: Any, start: int, stop: int) -> Any:
    return tensor[start:stop]


def test_weights_in_memory_stay_as_they_are(llama: Calibrated, tmp_path: Path) -> None:
    tensors = {name: one.tensor() for name, one in open_checkpoint(llama.model).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    source = {
        name: computed(partial(_rows_of, tensor), shape=tensor.shape, dtype="F32", of=())
        for name, tensor in tensors.items()
    }
    made = quantize_checkpoint(source, "int4:gptq", None, GPTQ)
    calibrate_checkpoint(made, source, llama.model, llama.data, tmp_path)
    for name, tensor in before.items():
        assert torch.equal(tensors[name], tensor), name
