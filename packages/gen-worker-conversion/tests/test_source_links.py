"""Links in a source: those that lead out of it are refused, those that stay are followed."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import inspect_model, plan_conversion
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.links import OutsideLinkError
from gen_worker.conversion.side_files import copy_side_files, copy_whole, side_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "id_rsa").write_text("a key")
    return folder


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        *(("LICENSE.txt", "id_rsa"), ("unet/notes.txt", "id_rsa"), ("assets", "")),
        *(("unet/diffusion_pytorch_model.safetensors", "w.safetensors"), ("vae", "")),
    ],
)
def test_a_plan_refuses_what_leads_out_by_its_name(
    tmp_path: Path, small_models: Any, secret: Path, name: str, leads_to: str
) -> None:
    model = small_models.pipeline(tmp_path / "model")
    shutil.copy(model / "unet" / "diffusion_pytorch_model.safetensors", secret / "w.safetensors")
    place = model / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(secret / leads_to)

    plan = plan_conversion(model, ["bf16"], out=tmp_path / "out")

    told = " ".join(one.reason for one in plan.refusals)
    assert f"{str(place)!r} is a link to {str(secret / leads_to)!r}" in told
    assert any(str(place) in one for one in inspect_model(model).refusals)


def test_nothing_is_copied_or_read_through_a_link_that_leads_out(
    tmp_path: Path, small_models: Any, secret: Path
) -> None:
    model = small_models.folder(tmp_path / "model")
    (model / "deep" / "er").mkdir(parents=True)
    link = model / "deep" / "er" / "key.txt"
    link.symlink_to("../../../home/id_rsa")

    for copy in (copy_side_files, copy_whole):
        with pytest.raises(OutsideLinkError) as caught:
            copy(str(model), str(tmp_path / "out" / copy.__name__))
        assert (caught.value.file, caught.value.target) == (str(link), str(secret / "id_rsa"))
    assert not list(tmp_path.glob("out/**/key.txt"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.target) == (str(caught.value), caught.value.target)

    weights = model / "model.safetensors"
    weights.rename(secret / "model.safetensors")
    weights.symlink_to(secret / "model.safetensors")
    with pytest.raises(OutsideLinkError, match=r"model\.safetensors"):
        open_checkpoint(model)
    assert len(open_checkpoint(weights)) == 4  # whoever names a file means what it leads to


def test_links_within_a_model_are_followed(tmp_path: Path, small_models: Any) -> None:
    model = small_models.pipeline(tmp_path / "model")
    shutil.rmtree(model / "vae")
    (model / "vae").symlink_to("unet")
    (model / "scheduler" / "LICENSE").symlink_to("../LICENSE")
    (model / "unet" / "LICENSE").symlink_to(model / "LICENSE")

    plan = plan_conversion(model, ["bf16"], out=tmp_path / "out")
    copy_side_files(str(model / "unet"), str(tmp_path / "made" / "unet"))
    copy_side_files(str(model), str(tmp_path / "made"), skip={"unet"})

    assert plan.refusals == ()
    for part in ("", "scheduler", "unet", "vae"):
        copied = tmp_path / "made" / part / "LICENSE"
        assert copied.read_text() == "free"
        assert not copied.is_symlink()


def _as_a_cache_has_it(model: Path, cache: Path) -> Path:
    """Move a model to where clients of the Hugging Face hub keep one."""
    snapshot = cache / "models--owner--name" / "snapshots" / "0123"
    blobs = cache / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for file in sorted(path for path in model.rglob("*") if path.is_file()):
        place = snapshot / file.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        name = "-".join(file.relative_to(model).parts)
        file.rename(blobs / name)
        up = "../" * len(place.relative_to(snapshot.parent.parent).parts[:-1])
        place.symlink_to(f"{up}blobs/{name}")
    return snapshot


def test_folders_of_a_cache_are_sources(tmp_path: Path, small_models: Any, secret: Path) -> None:
    snapshot = _as_a_cache_has_it(small_models.pipeline(tmp_path / "model"), tmp_path / "cache")

    plan = plan_conversion(snapshot, ["bf16"], out=tmp_path / "out")
    part = plan_conversion(snapshot / "unet", ["bf16"], out=tmp_path / "part")
    copy_side_files(str(snapshot), str(tmp_path / "made"), skip={"unet", "vae"})

    assert (plan.refusals, part.refusals) == ((), ())
    assert (tmp_path / "made" / "LICENSE").read_text() == "free"

    # A folder that only looks like one, whose blobs are somewhere else.
    false = tmp_path / "false"
    (false / "snapshots" / "0123").mkdir(parents=True)
    (false / "blobs").symlink_to(secret)
    (false / "snapshots" / "0123" / "LICENSE").symlink_to("../../blobs/id_rsa")
    with pytest.raises(OutsideLinkError):
        list(side_files(str(false / "snapshots" / "0123")))


def test_hidden_files_may_be_links_to_anywhere(
    tmp_path: Path, small_models: Any, secret: Path
) -> None:
    model = small_models.folder(tmp_path / "model")
    (model / ".envrc").symlink_to(secret / "id_rsa")

    assert plan_conversion(model, ["bf16"], out=tmp_path / "out").refusals == ()
    copy_side_files(str(model), str(tmp_path / "made"))
    assert not (tmp_path / "made" / ".envrc").exists()
