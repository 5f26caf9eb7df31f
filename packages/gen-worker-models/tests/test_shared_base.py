"""`SharedBase` and its variants."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.models import BindingError, HFRepo, Repo, SharedBase, dispatch

VAE = HFRepo("acme/Vae", subfolder="vae").dtype("bf16")
UNET = HFRepo("main", "acme/Unet").revision("v1")


class Pipeline:
    """Stands for a pipeline class."""


BASE = SharedBase(Pipeline, vae=VAE)


def test_variant_is_a_repo_of_its_first_slot() -> None:
    variant = BASE.variant(unet=UNET, text_encoder=Repo("acme/clip"))
    assert isinstance(variant, Repo)
    assert (variant.ref, variant.provider, variant.slot_name) == ("acme/Unet", "hf", "main")
    assert variant.primary_slot_name == "unet"
    assert variant.pipeline_class_fqn == BASE.pipeline_class_fqn == f"{__name__}.Pipeline"
    assert dict(variant.shared_components) == dict(BASE.shared_components) == {"vae": VAE}
    assert list(variant.variant_slots) == ["unet", "text_encoder"]
    assert variant.base == SharedBase(f" {__name__}.Pipeline ", vae=VAE)
    assert variant.allow_lora() != variant
    assert repr(SharedBase("d.P", vae=Repo("a/b")).variant(unet=Repo("c/d"))) == (
        "SharedBase('d.P', vae=Repo(ref='a/b', tag='prod')).variant("
        "unet=Repo(ref='c/d', tag='prod'))"
    )


@pytest.mark.parametrize("pipeline_cls", [None, "", "  ", 5, object])
def test_pipeline_class_is_needed(pipeline_cls: Any) -> None:
    with pytest.raises(BindingError) as caught:
        SharedBase(pipeline_cls, vae=VAE)
    assert caught.value.code == "no_pipeline_class"


@pytest.mark.parametrize(
    "part", ["acme/vae", None, dispatch("q", {"a": VAE}), BASE, BASE.variant(unet=UNET)]
)
def test_parts_are_repos(part: Any) -> None:
    with pytest.raises(TypeError, match="'vae' must be a Repo"):
        SharedBase(Pipeline, vae=part)
    with pytest.raises(TypeError, match="'unet' must be a Repo"):
        BASE.variant(unet=part)


def test_variant_needs_a_slot() -> None:
    with pytest.raises(BindingError) as caught:
        BASE.variant()
    assert caught.value.code == "no_slot"


def test_flavor_and_tag_belong_to_the_slots() -> None:
    variant = BASE.variant(unet=UNET)
    with pytest.raises(TypeError, match="slots"):
        variant.flavor("bf16")
    with pytest.raises(TypeError, match="slots"):
        variant.tag("dev")


def test_variant_in_a_dispatch_table() -> None:
    chooser = dispatch("style", {"photo": BASE.variant(unet=UNET)})
    row = chooser.to_lock("pipe", Any)["table"]["photo"]
    assert row == {
        "provider": "hf",
        "slot_name": "main",
        "ref": "acme/Unet",
        "tag": "prod",
        "revision": "v1",
        "variant_kind": "shared_base_variant",
        "pipeline_class": f"{__name__}.Pipeline",
        "shared_components": {
            "vae": {
                "provider": "hf",
                "ref": "acme/Vae",
                "tag": "prod",
                "subfolder": "vae",
                "dtype": "bf16",
            }
        },
        "variant_slots": {
            "unet": {"provider": "hf", "ref": "acme/Unet", "tag": "prod", "revision": "v1"}
        },
    }
    described = chooser.describe()["table"]["photo"]
    assert described["type"] == "Variant"
    assert described["shared_components"] == {"vae": VAE.to_dict()}


def test_variants_are_equal_by_base_and_slots() -> None:
    assert BASE.variant(unet=UNET) == SharedBase(Pipeline, vae=VAE).variant(unet=UNET)
    assert BASE.variant(unet=UNET) != BASE.variant(unet=UNET.revision("v2"))
    assert BASE.variant(unet=UNET) != SharedBase(Pipeline).variant(unet=UNET)
    assert BASE.variant(unet=UNET) != UNET
