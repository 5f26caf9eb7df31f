"""Group offload: streams weights to the GPU while it computes, and keeps there what fits."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from gen_worker.models.low_vram.prefix import Component, plan_prefix
from gen_worker.models.residency.weights import modules_of, tensor_bytes, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.models.low_vram.prefix import Placing

__all__ = ["GroupOffload", "components_of"]

_NAMES = ("transformer", "unet", "vae", "text_encoder", "text_encoder_2")
_DENOISERS = ("transformer", "unet", "prior")


class GroupOffload:
    """Puts group offload on one pipeline."""

    def __init__(
        self, device: str, *, directory: str = "", budget: int = 0, is_ram_short: bool = False
    ) -> None:
        """Say how it is to be done.

        Args:
            device: Where the pipeline runs.
            directory: Where weights are kept, of this pipeline alone; empty keeps them in RAM.
            budget: Bytes of the device that weights may take between calls.
            is_ram_short: Pin weights when they are used, not in advance: slower, but torch's
                pinned memory may take twice the weights.
        """
        self.device = device
        self.directory = directory
        self.budget = budget
        self.is_ram_short = is_ram_short

    def install(self, pipeline: Any) -> bool:
        """Try what there is, the best first; False when a pipeline offers none of it.

        Raises:
            Exception: What a library raised; hooks may be left half installed.
        """
        if modules_of(pipeline):
            self._by_component(pipeline)
            return True
        return self._by_pipeline(pipeline) or self._by_method(pipeline)

    def _by_component(self, pipeline: Any) -> None:
        modules = modules_of(pipeline)
        budget = 0 if self.directory else self.budget
        for placing in plan_prefix(components_of(pipeline), budget):
            module = modules[placing.name]
            if placing.how == "resident":
                module.to(self.device)
            elif placing.how == "blocks":
                self._stream_blocks(module, placing)
            else:
                self._stream_leaves(module, placing.name)

    def _stream_leaves(self, module: Any, name: str) -> None:
        # diffusers learns the order of a module's layers from its `forward`, and a VAE has none:
        # its `decode` is called. Streams would go on learning for ever.
        is_called = not callable(getattr(module, "decode", None))
        self._apply(module, "leaf_level", name, use_stream=is_called)

    def _stream_blocks(self, module: Any, placing: Placing) -> None:
        """Stream the blocks behind the resident ones; all the rest of the module stays."""
        with _only_streamed(module, placing.resident_blocks) as staying:
            for part in staying:
                part.to(self.device)
            self._apply(module, "block_level", placing.name, use_stream=True)

    def _apply(self, module: Any, kind: str, name: str, *, use_stream: bool) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]
        from diffusers.hooks import (  # type: ignore[import-not-found,attr-defined,unused-ignore]
            apply_group_offloading,
        )

        device = torch.device(self.device)
        options: dict[str, Any] = {}
        if kind == "block_level":
            options["num_blocks_per_group"] = 1
        if self.directory:
            # A group's file is named by its layer's name alone, which two components may share.
            options["offload_to_disk_path"] = os.path.join(self.directory, name)
            _untie(module)
        if use_stream and device.type != "cpu":
            # Recorded streams spare a wait of the host at each release.
            options.update(
                use_stream=True,
                record_stream=kind == "block_level",
                low_cpu_mem_usage=self.is_ram_short,
            )
        apply_group_offloading(
            module,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type=kind,
            **options,
        )

    # For objects whose modules cannot be seen.

    def _options(self) -> dict[str, Any]:
        try:
            import torch  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            onload: Any = self.device
            offload: Any = "cpu"
        else:
            onload, offload = torch.device(self.device), torch.device("cpu")
        options = {
            "onload_device": onload,
            "offload_device": offload,
            "offload_type": "leaf_level",
            "use_stream": True,
        }
        if self.directory:
            options["offload_to_disk_path"] = self.directory
        return options

    def _by_pipeline(self, pipeline: Any) -> bool:
        method = getattr(pipeline, "enable_group_offload", None)
        if not callable(method):
            return False
        method(**self._options())
        return True

    def _by_method(self, pipeline: Any) -> bool:
        components = (getattr(pipeline, name, None) for name in _NAMES)
        methods = [getattr(component, "enable_group_offload", None) for component in components]
        for method in filter(callable, methods):
            method(**self._options())
        return any(map(callable, methods))


def components_of(pipeline: Any) -> tuple[Component, ...]:
    """Measure a pipeline's components for the planner."""
    return tuple(
        _component(name, module, is_denoiser=name.startswith(_DENOISERS))
        for name, module in modules_of(pipeline).items()
    )


def _component(name: str, module: Any, *, is_denoiser: bool) -> Component:
    leaves = (x for x in module.modules() if not any(True for _ in x.children()))
    sizes = (sum(map(tensor_bytes, x.parameters())) for x in leaves)
    blocks = [weight_bytes(block) for blocks in _block_lists(module).values() for block in blocks]
    return Component(
        name=name,
        size=weight_bytes(module),
        blocks=tuple(blocks) if is_denoiser else (),
        largest_leaf=max(sizes, default=0),
        # diffusers marks the classes that it knows not to work.
        can_stream=getattr(module, "_supports_group_offloading", True),
        is_denoiser=is_denoiser,
    )


def _block_lists(module: Any) -> dict[str, Any]:
    """Return the lists of blocks that diffusers makes groups of, by name."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    kinds = (torch.nn.ModuleList, torch.nn.Sequential)
    return {name: child for name, child in module.named_children() if isinstance(child, kinds)}


def _untie(module: Any) -> None:
    """Give each layer its own weights, equal ones where two layers had the same.

    On disk, diffusers writes a layer's file and empties its tensors, before it writes the file of
    the next layer that has the same tensors.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    seen: set[int] = set()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if id(parameter) in seen:
                own = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(part, name, own)
            seen.add(id(parameter))


@contextlib.contextmanager
def _only_streamed(module: Any, resident: int) -> Iterator[list[Any]]:
    """Show only what is to be streamed for the block; give what is hidden, which stays resident.

    One small child stays visible: diffusers hangs the hook that fetches the first block on the
    module only when it has something of its own to move.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    children = dict(module._modules)
    lists = _block_lists(module)
    others = [name for name, child in children.items() if name not in lists and child is not None]
    weighty = [name for name in others if any(True for _ in children[name].parameters())]
    smallest = min(weighty, key=lambda name: weight_bytes(children[name]), default="")
    has_own = any(True for _ in module.parameters(recurse=False))
    visible: dict[str, Any] = {}
    staying: list[Any] = []
    for name, child in children.items():
        if name in lists:
            blocks = list(child)
            staying += blocks[:resident]
            visible[name] = torch.nn.ModuleList(blocks[resident:])
            resident = max(0, resident - len(blocks))
        elif name == smallest and not has_own:
            visible[name] = child
        elif child is not None:
            staying.append(child)
    module._modules = visible
    try:
        yield staying
    finally:
        module._modules = children
