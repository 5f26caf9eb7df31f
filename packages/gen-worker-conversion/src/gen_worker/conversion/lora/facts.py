"""What an adapter is, told by the header of its file and what is beside it; without torch."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from gen_worker.conversion.classify.adapters import are_adapter_names
from gen_worker.conversion.classify.lineage import lineage_of
from gen_worker.conversion.classify.values import ClassificationInputs, SafetensorsFacts
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora.families import family_of_modules
from gen_worker.conversion.lora.reading import (
    Alphas,
    home_of,
    implied_component,
    number_of,
    peft_config,
    peft_parts,
    side_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.conversion.lazy import LazyTensor, OpenCheckpoint

__all__ = ["AdapterComponent", "AdapterFacts", "adapter_facts"]

AdapterFormatName = Literal["peft", "kohya", "diffusers", "comfyui", "unknown"]
_PARTS = re.compile(
    r"(?P<module>.+)\."
    r"(?:(?P<dora>dora_scale|lora_magnitude_vector)"
    r"|(?P<lora>lora_mid|lora_embedding_[AB])"
    r"|(?P<loha>hada_(?:w[12]_[ab]|t[12]))"
    r"|(?P<lokr>lokr_(?:w[12](?:_[ab])?|t[12]))"
    r"|(?P<oft>oft_(?:blocks|diag|R))"
    r"|(?P<boft>boft_[RS])"
    r"|(?P<ia3>ia3_l)"
    r"|(?P<vera>vera_lambda_[bd]))"
    r"(?:\.default)?(?:\.weight)?"
)
_RANK_ROWS = re.compile(r"(?:lora_embedding_A|hada_w1_b|lokr_w[12]_b)(?:\.default)?(?:\.weight)?$")
"""Names of tensors with a row for each rank."""
_ALPHA = ".alpha"
_STARTS: tuple[tuple[str, AdapterFormatName], ...] = (
    ("base_model.model.", "peft"),
    ("lora_unet_", "kohya"),
    ("lora_te", "kohya"),
    ("lycoris_", "kohya"),
    ("diffusion_model.", "comfyui"),
    *((f"{name}.", "diffusers") for name in ("unet", "transformer")),
    *((f"text_encoder{number}.", "diffusers") for number in ("", "_2", "_3")),
)


class AdapterComponent(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter changes of one component."""

    name: str
    """Empty where the file does not say."""
    modules: int
    ranks: tuple[int, ...]
    """Each once, ascending; empty where the network has none."""
    alphas: tuple[float, ...]
    """Likewise; where a file says nothing, alpha is the rank."""
    targets: Mapping[str, int]
    """How many modules there are by the last part of their names, such as `to_q`."""


class AdapterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, whatever its network."""

    format: AdapterFormatName
    networks: tuple[str, ...]
    """Of `lora dora loha lokr oft boft ia3 vera`; several where modules differ."""
    family: str
    """As its metadata name the base model, else by names and widths; else `unknown`."""
    components: tuple[AdapterComponent, ...]
    lineage: Mapping[str, str]
    """`base_model_repo`, `base_model_family` and so on, and `lineage_source`."""
    unknown: tuple[str, ...]
    """Names of tensors that are no part of an adapter."""


class _Module:
    """What a file says of one module."""

    def __init__(self) -> None:
        self.networks: set[str] = set()
        self.rank = 0
        self.width = 0
        self.alpha: float | None = None

    @property
    def network(self) -> str:
        return "dora" if "dora" in self.networks else next(iter(self.networks))


class _Read(NamedTuple):
    """What one file, or one folder of peft, holds."""

    modules: Mapping[str, _Module]
    unknown: Sequence[str]
    places: Sequence[tuple[str, str, _Module]]
    """Component and name in it of each module."""
    alphas: Alphas
    inputs: ClassificationInputs


def _part_of(name: str) -> tuple[str, str, bool]:
    """Return module, network, and whether the tensor has a row for each rank; empty for others."""
    key, side = side_of(name)
    if side:
        return key, "lora", side == "down"
    found = _PARTS.fullmatch(name)
    if found is None:
        return "", "", False
    network = next(key for key, value in found.groupdict().items() if key != "module" and value)
    return found["module"], network, bool(_RANK_ROWS.search(name))


def adapter_facts(path: str | os.PathLike[str]) -> AdapterFacts | None:
    """Look at an adapter; None when the weights there are a model's.

    Args:
        path: A safetensors file, the folder of an adapter, or a folder with one of peft for each
            component.

    Raises:
        OSError: It cannot be read.
        DamagedFileError: A file is damaged.
        UnsafeFileFormat: The weights are in a format that can run code.
        ConversionInputError: There are no weights.
    """
    place = os.fspath(path)
    parts = peft_parts(place) or {"": place}
    opened = {name: open_checkpoint(folder) for name, folder in parts.items()}
    if not all(are_adapter_names(checkpoint.keys()) for checkpoint in opened.values()):
        return None
    read = [_read(parts[name], checkpoint, name) for name, checkpoint in opened.items()]
    modules = [module for one in read for module in one.modules.values()]
    lineage = lineage_of(read[0].inputs, is_adapter=True)
    told = lineage.get("base_model_family", "unknown")
    widths = [(owner, name, module.width) for one in read for owner, name, module in one.places]
    return AdapterFacts(
        format=_format(key for one in read for key in one.modules),
        networks=tuple(sorted({module.network for module in modules})),
        family=told if told != "unknown" else family_of_modules(widths) or "unknown",
        components=tuple(part for one in read for part in _components(one)),
        lineage=lineage,
        unknown=tuple(sorted(name for one in read for name in one.unknown)),
    )


def _read(place: str, checkpoint: OpenCheckpoint, component: str) -> _Read:
    modules: dict[str, _Module] = {}
    alphas: dict[str, float] = {}
    unknown: list[str] = []
    for name, tensor in checkpoint.items():
        key, network, has_ranks = _part_of(name)
        if network:
            module = modules.setdefault(key, _Module())
            module.networks.add(network)
            if has_ranks and tensor.shape:
                module.rank, module.width = tensor.shape[0], tensor.row_elements
        elif (alpha := _alpha(name, tensor)) is not None:
            alphas[name.removesuffix(_ALPHA)] = alpha
        else:
            unknown.append(name)
    for key in alphas.keys() - modules.keys():
        unknown.append(f"{key}{_ALPHA}")
    for key, module in modules.items():
        module.alpha = alphas.get(key)
    component = component or implied_component(modules)
    config = peft_config(place)
    return _Read(
        modules,
        unknown,
        [(*(home_of(key, component) or ("", key)), module) for key, module in modules.items()],
        Alphas(config, checkpoint.metadata),
        _inputs(place, checkpoint, config),
    )


def _alpha(name: str, tensor: LazyTensor) -> float | None:
    return number_of(tensor) if name.endswith(_ALPHA) and tensor.elements == 1 else None


def _inputs(
    place: str, checkpoint: OpenCheckpoint, config: Mapping[str, object]
) -> ClassificationInputs:
    """Return what classification reads the lineage from."""
    name = os.path.basename(checkpoint.files[0])
    facts = SafetensorsFacts(frozenset(checkpoint), metadata=checkpoint.metadata)
    return ClassificationInputs(
        sizes={name: os.path.getsize(checkpoint.files[0])},
        documents={"adapter_config.json": config},
        card=_card(place),
        headers={name: facts},
    )


def _card(place: str) -> Mapping[str, object]:
    path = os.path.join(place, "README.md")
    if not os.path.isfile(path):
        return {}
    from gen_worker.conversion.ingest.inspecting import front_matter

    with open(path, "rb") as file:
        return front_matter(file.read(1 << 20))


def _format(keys: Iterable[str]) -> AdapterFormatName:
    kinds = Counter(
        next((kind for start, kind in _STARTS if k.startswith(start)), "") for k in keys
    )
    name = kinds.most_common(1)[0][0]
    return next((kind for _, kind in _STARTS if kind == name), "unknown")


def _components(read: _Read) -> list[AdapterComponent]:
    by_name: dict[str, list[tuple[str, _Module]]] = {}
    for component, name, module in read.places:
        by_name.setdefault(component, []).append((name, module))
    return [
        AdapterComponent(
            name=component,
            modules=len(modules),
            ranks=tuple(sorted({module.rank for _, module in modules if module.rank})),
            alphas=tuple(sorted(_alphas(component, modules, read.alphas))),
            targets=dict(sorted(Counter(_target(name) for name, _ in modules).items())),
        )
        for component, modules in sorted(by_name.items())
    ]


def _alphas(component: str, modules: Iterable[tuple[str, _Module]], alphas: Alphas) -> set[float]:
    return {
        alphas.of(component, name, module.rank) if module.alpha is None else module.alpha
        for name, module in modules
        if module.rank
    }


def _target(name: str) -> str:
    """Return the last part of a module's name, and the one before where it is a number."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
