"""`gen-worker convert`: outputs that are complete, proven and published; on after a kill."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Hub

pytest.importorskip("torch")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}


def write_model(folder: Path) -> Path:
    """Write a model of two matrices of ones in float32."""
    tensors, rows, size = 2, 8, 256
    header: dict[str, Any] = {
        f"layer.{number}.weight": {
            "dtype": "F32",
            "shape": [rows, 8],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(tensors)
    }
    text = json.dumps(header).encode()
    content = struct.pack("<f", 1.0) * (tensors * rows * 8)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)
    return folder


def hub_with_source(cli: Cli, start_hub: Callable[..., Hub]) -> Hub:
    """Start a hub that has the folder `model` as acme/source:prod."""
    hub = start_hub()
    pushed = cli("hub", "push", "model", "acme/source:prod", TENSORHUB_URL=hub.url)
    assert pushed.code == 0, pushed.stderr
    return hub


def events(stdout: str) -> dict[str, Any]:
    """Return the last event of each kind."""
    return {event["kind"]: event for event in map(json.loads, stdout.splitlines())}


@pytest.mark.claims("convert.out", "convert.progress", "convert.verify")
def test_each_precision_has_a_folder_and_is_proven(cli: Cli) -> None:
    write_model(cli.folder / "model")

    done = cli(
        *("convert", "model", "--to", "bf16,fp16", "--out", "out", "--verify"), **ENVIRONMENT
    )

    assert done.code == 0, done.stderr
    told = events(done.stdout)
    assert told["convert.progress"]["total_bytes"] == told["convert.plan"]["size_bytes"]
    assert told["convert.verified"]["exact_tensors"] == 2
    assert [file["path"] for file in told["convert.done"]["files"]["bf16"]] == ["model.safetensors"]
    assert sorted(os.listdir(cli.folder / "out")) == ["bf16", "fp16"]
    card = (cli.folder / "out" / "fp16" / "README.md").read_text()
    assert "| of these exact | 2 |" in card
    from blake3 import blake3

    for flavor in ("bf16", "fp16"):
        folder = cli.folder / "out" / flavor
        files = json.loads((folder / "provenance.json").read_text())["files"]
        assert files == {
            "model.safetensors": "blake3:"
            + blake3((folder / "model.safetensors").read_bytes()).hexdigest()
        }
    assert sorted(os.listdir(cli.folder)) == ["model", "out"]


KILLED = """
import os, signal
from gen_worker.conversion.convert import plan_conversion, run_conversion

def die(progress):
    if progress.flavor == "fp16":
        os.kill(os.getpid(), signal.SIGKILL)

run_conversion(plan_conversion("model", ["bf16", "fp16"], out="out"), progress=die)
"""


@pytest.mark.claims("convert.resume")
def test_the_same_command_goes_on_after_a_kill(cli: Cli) -> None:
    write_model(cli.folder / "model")
    # What the command does, killed at a moment that no machine's speed decides.
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=cli.folder, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (cli.folder / "out").exists()
    staged = cli.folder / ".out.converting" / "output" / "bf16" / "model.safetensors"
    before = staged.stat()

    done = cli("convert", "model", "--to", "bf16,fp16", "--out", "out", **ENVIRONMENT)

    assert done.code == 0, done.stderr
    assert events(done.stdout)["convert.done"]["resumed"] == 1
    after = (cli.folder / "out" / "bf16" / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


INTERRUPTED = """
import os, signal, sys
from gen_worker.conversion import convert

run = convert.run_conversion

def interrupted(plan, *, progress, **options):
    def stop(one):
        progress(one)
        if one.flavor == "fp16":
            os.kill(os.getpid(), signal.SIGINT)
    return run(plan, progress=stop, **options)

convert.run_conversion = interrupted
from gen_worker.cli import main

sys.argv = ["gen-worker", "convert", "model", "--to", "bf16,fp16", "--out", "out"]
sys.exit(main())
"""


@pytest.mark.claims("convert.resume")
def test_who_interrupts_is_told_what_is_left(cli: Cli) -> None:
    write_model(cli.folder / "model")

    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=cli.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 130
    place = str(cli.folder / ".out.converting")
    told = f"gen-worker convert: stopped: the same command goes on from what is in {place!r}\n"
    assert done.stderr.endswith(told)
    assert os.listdir(place)


@pytest.mark.claims("convert.publish")
def test_outputs_are_published_as_flavors_of_one_publication(
    cli: Cli, start_hub: Callable[..., Hub]
) -> None:
    write_model(cli.folder / "model")
    hub = start_hub()

    done = cli(
        *("convert", "model", "--to", "bf16,fp16", "--out", "acme/made:prod"),
        **ENVIRONMENT,
        TENSORHUB_URL=hub.url,
    )

    assert done.code == 0, done.stderr
    assert events(done.stdout)["convert.published"]["flavors"] == ["bf16", "fp16"]
    pulled = cli("hub", "pull", "acme/made:prod#fp16", "pulled", TENSORHUB_URL=hub.url)
    assert pulled.code == 0, pulled.stderr
    assert sorted(os.listdir(cli.folder / "pulled")) == [
        *("README.md", "model.safetensors", "provenance.json", "verification.json")
    ]
    assert os.listdir(cli.folder / ".gen-worker-convert") == []


@pytest.mark.claims("convert.publish")
def test_what_an_output_was_made_from_is_published_with_it(
    cli: Cli, start_hub: Callable[..., Hub]
) -> None:
    write_model(cli.folder / "model")
    hub = hub_with_source(cli, start_hub)

    done = cli(
        *("convert", "acme/source:prod", "--to", "bf16", "--out", "acme/made:prod"),
        **ENVIRONMENT,
        TENSORHUB_URL=hub.url,
    )

    assert done.code == 0, done.stderr
    pulled = cli("hub", "pull", "acme/made:prod", "pulled", TENSORHUB_URL=hub.url)
    assert pulled.code == 0, pulled.stderr
    provenance = json.loads((cli.folder / "pulled" / "provenance.json").read_text())
    assert provenance["source_ref"] == "acme/source:prod"
    assert provenance["source_revision"]
    assert provenance["recipe"]["target"] == "bf16"
    assert str(cli.folder) not in json.dumps(provenance)


@pytest.mark.claims("convert.gate")
def test_an_output_must_behave_as_its_source(cli: Cli) -> None:
    pytest.importorskip("transformers")
    from gen_worker.models.tiny import tiny_llama

    tiny_llama(cli.folder / "model")

    near = cli("convert", "model", "--to", "bf16", "--out", "a", "--gate", "30", **ENVIRONMENT)
    far = cli("convert", "model", "--to", "bf16", "--out", "b", "--gate", "90", **ENVIRONMENT)

    assert near.code == 0, near.stderr
    assert events(near.stdout)["convert.verified"]["quality"]["snr_db"] > 30
    assert far.code == 1
    assert "90 dB are needed" in far.stderr
    assert sorted(os.listdir(cli.folder)) == ["a", "model"]


@pytest.mark.claims("convert.publish")
def test_what_is_quantised_says_how_on_the_hub(cli: Cli, start_hub: Callable[..., Hub]) -> None:
    pytest.importorskip("transformers")
    from gen_worker.models.tiny import tiny_llama

    tiny_llama(cli.folder / "model")
    hub = hub_with_source(cli, start_hub)

    done = cli(
        *("convert", "acme/source:prod", "--to", "fp8,gguf:q8_0", "--out", "acme/made:prod"),
        **ENVIRONMENT,
        TENSORHUB_URL=hub.url,
    )

    assert done.code == 0, done.stderr
    assert events(done.stdout)["convert.published"]["flavors"] == ["fp8", "q8_0"]


def test_a_hub_that_does_not_answer_is_noticed_before_anything_is_made(cli: Cli) -> None:
    write_model(cli.folder / "model")
    done = cli(
        *("convert", "model", "--to", "bf16", "--out", "acme/made:prod"),
        **ENVIRONMENT,
        TENSORHUB_URL="http://127.0.0.1:9",
    )
    assert done.code == 1, done.stderr
    assert set(events(done.stdout)) == {"convert.plan"}
    assert os.listdir(cli.folder) == ["model"]


@pytest.mark.claims("convert.calibrate")
def test_data_make_gptq_and_scales_of_activations(cli: Cli) -> None:
    pytest.importorskip("transformers")
    from gen_worker.models.tiny import tiny_llama

    tiny_llama(cli.folder / "model")
    (cli.folder / "rows.txt").write_text("\n".join(f"{n} lazy dogs" for n in range(40)))
    asked = ("--to", "int4:gptq:g32,fp8", "--calibrate", "rows.txt", "--calibration-samples", "9")

    done = cli(*("convert", "model", *asked, "--out", "out", "--verify"), **ENVIRONMENT)

    assert done.code == 0, done.stderr
    told = events(done.stdout)
    assert told["convert.plan"]["request"]["calibration"]["samples"] == 9
    assert told["convert.verified"]["loaded"] == {"": "LlamaForCausalLM"}
    config = json.loads((cli.folder / "out" / "fp8" / "config.json").read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    assert group["input_activations"]["dynamic"] is False
