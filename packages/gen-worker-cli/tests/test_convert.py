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
