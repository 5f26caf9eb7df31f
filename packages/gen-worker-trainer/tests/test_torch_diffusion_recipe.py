"""Pipelines of every family are fine-tuned from a job spec, and give what their users load."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.trainer.errors import InputMaterializationError
from gen_worker.trainer.runtime import run_training_runtime
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
safetensors: Any = pytest.importorskip("safetensors")
pytest.importorskip("peft")
np: Any = pytest.importorskip("numpy")
Image: Any = pytest.importorskip("PIL.Image")

pytestmark = [
    # Of diffusers with NumPy 2; not of ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
_FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")
_PROMPTS = {"sample_prompts": ["a red square", "a blue square"], "sample_seed": 1}
_COLORS = ("red", "blue", "lime", "white", "black")
_STALLING = """
import time
from gen_worker.trainer.recipes.diffusion import DiffusionTrainer

class StallingTrainer(DiffusionTrainer):
    taken = 0

    def train_step(self, batch, state, ctx):
        self.taken += 1
        if self.taken == 12:
            print("stalled", flush=True)
            time.sleep(600)
        return super().train_step(batch, state, ctx)
"""


def write_images(folder: Path, *, sizes: tuple[tuple[int, int], ...] = ((40, 32),)) -> None:
    """Write a few images with captions."""
    folder.mkdir()
    for number, color in enumerate(_COLORS):
        shades = Image.linear_gradient("L").resize(sizes[number % len(sizes)]).convert("RGB")
        plain = Image.new("RGB", shades.size, color)
        Image.blend(shades, plain, 0.7).save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"a {color} square")


def job_of(folder: Path, base: str, **fields: Any) -> dict[str, Any]:
    """Return a job on the images in a folder, on the processor, in fp32."""
    hyperparams = {
        "device": "cpu",
        "dtype": "fp32",
        "learning_rate": 1e-3,
        "images": {"resolution": 32},
        "max_text_tokens": 16,
        "lora_rank": 4,
        "sample_steps": 2,
        "cache_dir": str(folder / "encoded"),
        **fields.pop("hyperparams", {}),
    }
    dataset = {"batch_size": 2, "epochs": 0, "shuffle": True, **fields.pop("dataset", {})}
    return {
        "request_id": "run",
        "trainer": "gen_worker.trainer.recipes.diffusion:DiffusionTrainer",
        "metric_every": 1,
        "inputs": {"base_model_ref": base},
        "dataset": {"folder": str(folder / "images"), **dataset},
        "hyperparams": hyperparams,
        **fields,
    }


def run_job(folder: Path, job: dict[str, Any], out: str = "out") -> Path:
    """Run a job; return where its files are."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    settings = TrainerSettings(job_spec_path=str(path), artifacts_dir=str(folder / out))
    assert run_training_runtime(settings) == 0
    return folder / out


def events_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics/events.jsonl").read_text().splitlines()]


def losses_of(out: Path) -> dict[int, float]:
    """Return the loss of each step; the last one of steps that were done twice."""
    return {
        event["step"]: event["value"]
        for event in events_of(out)
        if event["event"] == "metric" and event["name"] == "train/loss"
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Make the tiny pipeline of a family, once."""
    from gen_worker.models import tiny

    made: dict[str, str] = {}

    def base_of(family: str) -> str:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = getattr(tiny, f"tiny_{family}")(folder / "model")
        return made[family]

    return base_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    return tmp_path


def pixels_of(path: Any) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def painted(base: str, lora: Path | None) -> Any:
    """Return what a fresh pipeline paints, with a LoRA or without."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 2, "height": 32, "width": 32, "generator": generator}
    return np.asarray(pipeline("a red square", **options).images[0]).astype(int)


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_lora_is_trained_and_loads_into_a_fresh_pipeline(
    folder: Path, base_of: Callable[[str], str], family: str
) -> None:
    base = base_of(family)
    job = job_of(folder, base, max_steps=6, sample_every=6, **_PROMPTS)
    job["hyperparams"]["learning_rate"] = 0.03

    out = run_job(folder, job)

    assert sorted(losses_of(out)) == list(range(1, 7))
    assert all(math.isfinite(loss) for loss in losses_of(out).values())
    done = events_of(out)[-1]
    assert done["event"] == "completed"
    lora = out / "checkpoints/final/pytorch_lora_weights.safetensors"
    assert done["final_checkpoint"] == str(lora)
    trained = painted(base, lora)
    assert abs(trained - painted(base, None)).max() > 2
    # What the run showed is what its users get.
    assert abs(trained - pixels_of(out / "samples/step-00000006-00.png")).max() <= 1
    assert (out / "samples/step-00000006-grid.png").exists()


def test_the_loss_falls_where_there_is_little_to_learn(
    folder: Path, base_of: Callable[[str], str]
) -> None:
    hyperparams = {"method": "full", "learning_rate": 0.005, "schedule": "constant"}
    job = job_of(
        folder,
        base_of("stable_diffusion"),
        max_steps=30,
        dataset={"batch_size": 5},
        hyperparams={**hyperparams, "max_grad_norm": 0, "ema_decay": 0.9},
    )

    out = run_job(folder, job)

    losses = list(losses_of(out).values())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    unet = diffusers.UNet2DConditionModel.from_pretrained(out / "checkpoints/final/unet")
    before = diffusers.UNet2DConditionModel.from_pretrained(
        f"{job['inputs']['base_model_ref']}/unet"
    )
    changed = unet.conv_in.weight - before.conv_in.weight
    assert changed.abs().max() > 1e-3


def test_text_encoders_sizes_and_columns_of_a_job(
    tmp_path: Path, base_of: Callable[[str], str]
) -> None:
    """Everything at once that the other runs have not: parts of batches, buckets, dropped texts."""
    write_images(tmp_path / "images", sizes=((64, 40), (40, 64), (50, 50)))
    hyperparams = {
        "train_text_encoders": True,
        "caption_dropout": 0.5,
        "images": {"resolution": 32, "buckets": True, "bucket_step": 8, "flip": 0.5},
        "min_snr_gamma": 5.0,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    base = base_of("stable_diffusion_xl")

    out = run_job(tmp_path, job_of(tmp_path, base, max_steps=3, hyperparams=hyperparams))

    assert all(math.isfinite(loss) for loss in losses_of(out).values())
    lora = out / "checkpoints/final/pytorch_lora_weights.safetensors"
    with safetensors.safe_open(lora, "np") as file:
        parts = {name.split(".")[0] for name in file.keys()}
    assert parts == {"unet", "text_encoder", "text_encoder_2"}
    painted(base, lora)


def test_what_is_encoded_is_kept_and_damage_does_no_harm(
    folder: Path, base_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_worker.trainer.recipes.diffusion.encoding import Encoders

    job = job_of(folder, base_of("flux"), max_steps=4)
    first = losses_of(run_job(folder, job))
    kept = sorted((folder / "encoded").rglob("*.safetensors"))
    assert len(kept) == 10  # five images, five captions

    kept[0].write_bytes(kept[0].read_bytes()[:50])
    assert losses_of(run_job(folder, job, "again")) == first
    assert len({path.stat().st_size for path in kept}) <= 2
    monkeypatch.setattr(Encoders, "image", None)  # nothing is encoded any more
    monkeypatch.setattr(Encoders, "read", None)
    assert losses_of(run_job(folder, job, "third")) == first
    monkeypatch.undo()
    job["hyperparams"]["cache"] = "off"
    shutil.rmtree(folder / "encoded")
    assert losses_of(run_job(folder, job, "fourth")) == first
    assert not (folder / "encoded").exists()


def test_broken_images_fail_the_run_or_are_counted(
    folder: Path, base_of: Callable[[str], str]
) -> None:
    (folder / "images/broken.png").write_bytes(b"\x89PNG no image")
    job = job_of(folder, base_of("stable_diffusion"), max_steps=3, dataset={"shuffle": False})

    with pytest.raises(InputMaterializationError, match=r"broken\.png"):
        run_job(folder, job)
    failed = events_of(folder / "out")[-1]
    assert (failed["event"], failed["step"]) == ("failed", 1)
    assert failed["error"].startswith("input:")

    job["hyperparams"]["images"]["on_error"] = "skip"
    out = run_job(folder, job, "again")
    counts = [e["value"] for e in events_of(out) if e.get("name") == "skipped_images"]
    assert counts[-1] >= 1


def test_a_job_that_this_recipe_cannot_do(folder: Path, base_of: Callable[[str], str]) -> None:
    base = base_of("stable_diffusion")
    job = job_of(folder, base, max_steps=1, hyperparams={"images": {"resolution": 33}})
    with pytest.raises(ValidationError, match="resolution is 33: this model needs a multiple of 2"):
        run_job(folder, job)

    job = job_of(folder, base, max_steps=1, hyperparams={"caption_column": "words"})
    with pytest.raises(ValidationError, match="no column 'words': its columns are"):
        run_job(folder, job, "again")

    job = job_of(folder, str(folder / "images"), max_steps=1)
    with pytest.raises(ValidationError, match=r"no folder of a pipeline of diffusers"):
        run_job(folder, job, "third")

    other = folder / "other"
    shutil.copytree(base, other)
    index = json.loads((other / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValidationError, match="is a StableDiffusionImg2ImgPipeline, and what can"):
        run_job(folder, job_of(folder, str(other), max_steps=1), "fourth")


def test_a_killed_run_goes_on_bit_for_bit(folder: Path, base_of: Callable[[str], str]) -> None:
    hyperparams = {
        "images": {"resolution": 32, "crop": "random", "flip": 0.5},
        "caption_dropout": 0.3,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
    }
    job = job_of(
        folder, base_of("stable_diffusion"), max_steps=8, checkpoint_every=2, sample_every=8,
        hyperparams=hyperparams, **_PROMPTS,
    )  # fmt: skip
    whole = run_job(folder, job, "whole")

    (folder / "stalling.py").write_text(_STALLING)
    (folder / "job.json").write_text(json.dumps({**job, "trainer": "stalling:StallingTrainer"}))
    environ = {
        **os.environ,
        "TRAINER_JOB_SPEC_PATH": "job.json",
        "TRAINER_ARTIFACTS_DIR": str(folder / "killed"),
        "OMP_NUM_THREADS": "1",
    }
    run = "from gen_worker.trainer import run_training_runtime_from_env as run; run()"
    command = [sys.executable, "-c", run]
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stalled\n"
        process.kill()
    killed = run_job(folder, {**job, "resume_from_latest": True}, "killed")

    steps = [event["step"] for event in events_of(killed) if event.get("name") == "train/loss"]
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert losses_of(killed) == losses_of(whole)
    for kind, least in (("*.safetensors", 9), ("*.png", 3)):
        files = sorted(path.relative_to(whole) for path in whole.rglob(kind))
        assert len(files) >= least
        for file in files:
            assert content_of(killed / file) == content_of(whole / file), file


def content_of(path: Path) -> Any:
    """Return what a file has; the order of names in a safetensors header is a matter of luck."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safetensors.safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return file.metadata(), {name: (x.dtype, x.tobytes()) for name, x in tensors.items()}
