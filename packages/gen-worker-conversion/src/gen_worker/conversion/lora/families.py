"""The family that an adapter is for, by the names and widths of what it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["family_of_modules"]

_FLUX = ("single_transformer_blocks.", "double_blocks.", "single_blocks.")
_TEXT_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Of the text that the cross-attention of a UNet looks at."""
_HIDDEN_WIDTHS = {3072: "flux1", 1536: "sd3", 2432: "sd3"}
"""Of a transformer: FLUX.1; Stable Diffusion 3 and 3.5 medium, 3.5 large."""


def family_of_modules(modules: Iterable[tuple[str, str, int]]) -> str:
    """Return `flux1 sd3 sd15 sd2 sdxl`, or nothing where it is not told.

    Args:
        modules: Component, module and inputs of each; the names of diffusers or the original ones.
    """
    known = list(modules)
    if any(module.startswith(_FLUX) for _, module, _ in known):
        return "flux1"
    if any(module.startswith("joint_blocks.") for _, module, _ in known):
        return "sd3"
    for component, module, width in known:
        if component == "unet" and module.endswith(("attn2.to_k", "attn2.to_v")):
            return _TEXT_WIDTHS.get(width, "")
        if component == "transformer" and module.endswith(("attn.to_q", "attn.to_k", "attn.to_v")):
            return _HIDDEN_WIDTHS.get(width, "")
    return ""
