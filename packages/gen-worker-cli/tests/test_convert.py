"""`gen-worker convert --plan`: everything is told before a tensor is read."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli, Terminal


def write_model(folder: Path) -> Path:
    """Write a model of one matrix and a norm, in float32."""
    header: dict[str, Any] = {
        "layer.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]},
        "norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [256, 288]},
    }
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(288))
    (folder / "config.json").write_text(json.dumps({"architectures": ["SomeModel"]}))
    return folder


@pytest.mark.claims("convert.plan", "convert.keep")
def test_a_plan_is_printed_and_nothing_is_made(cli: Cli) -> None:
    write_model(cli.folder / "model")

    done = cli(
        "convert", "model", "--to", "bf16,fp16", "--out", "out", "--keep", "*norm*", "--plan"
    )

    assert done.code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["kind"] == "convert.plan"
    assert [flavor["flavor"] for flavor in plan["flavors"]] == ["bf16", "fp16"]
    [part] = plan["flavors"][0]["components"]
    assert (part["size_bytes"], part["kept"][0]["example"]) == (160, "norm.weight")
    assert not (cli.folder / "out").exists()


@pytest.mark.claims("convert.refused")
def test_everything_that_cannot_be_done_is_one_line_each(cli: Cli) -> None:
    write_model(cli.folder / "model")
    (cli.folder / "out").mkdir()
    (cli.folder / "out" / "mine").touch()

    done = cli("convert", "model", "--to", "bf17,svdquant", "--out", "out")

    assert done.code == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all(line.startswith("gen-worker convert: ") for line in lines)
    for part in ("bf17", "nunchaku", "exists already"):
        assert part in done.stderr
    assert [path.name for path in (cli.folder / "out").iterdir()] == ["mine"]


@pytest.mark.claims("convert.source")
@pytest.mark.parametrize(
    ("source", "told"),
    [("./none", "does not exist"), ("no such model", "no ref"), ("hf:acme/none", "acme/none")],
)
def test_a_source_that_is_nowhere(cli: Cli, source: str, told: str) -> None:
    done = cli("convert", source, "--to", "bf16", "--out", "out", "--offline")

    assert done.code in (2, 3)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.claims("convert.terminal")
def test_a_person_reads_the_plan_and_is_asked(terminal: Terminal) -> None:
    write_model(terminal.folder / "model")

    terminal.start("convert", "model", "--to", "bf16", "--out", "out")

    terminal.expect("fp32 -> bf16")
    terminal.expect("of memory beyond torch")
    terminal.expect("Go on? [Y/n]")
    terminal.send("n\n")
    terminal.expect("nothing was done")
    assert terminal.wait() == 2
    assert not (terminal.folder / "out").exists()


@pytest.mark.claims("convert.calibrate")
def test_what_needs_data_and_has_none_and_what_cannot_take_them_are_refused(cli: Cli) -> None:
    write_model(cli.folder / "model")
    (cli.folder / "rows.txt").write_text("one row\nand another\n")

    without = cli("convert", "model", "--to", "int4:gptq", "--out", "out")
    with_data = cli("convert", "model", "--to", "nf4", "--calibrate", "rows.txt", "--out", "out")
    absent = cli("convert", "model", "--to", "fp8", "--calibrate", "gone.txt", "--out", "out")

    assert (without.code, with_data.code, absent.code) == (2, 2, 2)
    assert "--calibrate" in without.stderr
    assert "'nf4' cannot be calibrated" in with_data.stderr
    assert "gone.txt" in absent.stderr


@pytest.mark.claims("convert.plan")
def test_options_are_read_as_people_write_them(cli: Cli) -> None:
    write_model(cli.folder / "model")
    cli("convert", "model", "--to", "bf16", "--out", "out", "--plan")

    done = cli(
        *("convert", "model", "--to", "bf16, fp16", "--to", "fp32", "--out", "out", "--plan"),
        *("--max-shard-bytes", "1.5GiB", "--components", " ,"),
    )

    assert done.code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [flavor["flavor"] for flavor in plan["flavors"]] == ["bf16", "fp16", "fp32"]
    assert plan["request"]["max_shard_bytes"] == 3 << 29
    assert plan["request"]["components"] is None


@pytest.mark.claims("convert.refused")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--max-shard-bytes", "0"), "a size such as 2GB"),
        (("--max-shard-bytes", "2X"), "a size such as 2GB"),
        (("--max-shard-bytes", "nan"), "a size such as 2GB"),
        (("--calibration-samples", "0"), "a number at least 1"),
        (("--lora", "model:much"), "'much' is no scale: give a number such as 0.8"),
        (("--components", " unet , vae"), "no component 'unet'"),
    ],
)
def test_what_an_option_cannot_be_is_told(cli: Cli, words: tuple[str, str], told: str) -> None:
    write_model(cli.folder / "model")

    done = cli("convert", "model", "--to", "bf16", "--out", "out", *words)

    assert done.code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.claims("convert.source")
def test_a_file_that_is_misspelt_is_no_ref(cli: Cli) -> None:
    done = cli("convert", "models/gone.safetensors", "--to", "bf16", "--out", "out")

    assert done.code == 2
    assert "gone.safetensors' does not exist: give a model's directory" in done.stderr


@pytest.mark.claims("front.help", "convert.plan")
def test_the_help_names_what_is_needed_and_every_precision(cli: Cli) -> None:
    from gen_worker.conversion.gguf.types import WRITTEN
    from gen_worker.conversion.quantize.methods import METHODS

    text = cli("convert", "--help").stdout

    assert text.startswith("usage: gen-worker convert [options] SOURCE --to PRECISIONS --out DIR\n")
    listed = text.partition("PRECISIONS, of")[2].partition("Several")[0]
    told = {word.strip(",:").removeprefix("gguf:") for word in listed.split()}
    methods = [{method.name, *method.aliases} for method in METHODS.values()]
    names = set(WRITTEN).union({"fp32", "fp16", "32bit", "16bit", "8bit", "4bit"}, *methods)
    assert {word for word in told if any(map(str.isdigit, word))} <= names, "nothing is made up"
    rest = {name for name in WRITTEN if name.endswith(("_l", "_xl"))}
    assert set(WRITTEN) - rest <= told, "nothing is left out"
    assert all(one & told or min(one).startswith("int4:gptq:") for one in methods)


@pytest.mark.claims("convert.configs")
def test_configurations_are_for_one_file_that_becomes_a_pipeline(cli: Cli) -> None:
    write_model(cli.folder / "model")

    done = cli("convert", "model", "--to", "bf16", "--out", "out", "--configs", "~/pipeline")

    assert done.code == 2
    assert "only a file that becomes a pipeline takes configurations" in done.stderr
