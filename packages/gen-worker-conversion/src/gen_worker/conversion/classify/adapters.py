"""Whether a file holds an adapter: by the names of its tensors, never by its size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.conversion.classify.values import ClassificationInputs

__all__ = ["are_adapter_names", "looks_like_adapter", "tags_of"]

_ADAPTER = re.compile(
    r"(?:^|[._])(?:"
    r"lora_(?:A|B|up|down|mid|magnitude_vector)|lora_embedding_[AB]|lora\.(?:up|down)|"
    r"hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|oft_blocks|oft_diag|"
    r"dora_scale|ia3_l|boft_R|vera_lambda_[bd])(?=$|[._])"
)
_SCALES = re.compile(r"(?:^|\.)(?:alpha|scale|network_alpha|dora_scale)$")
_MOST = 0.5
_TAGS = frozenset({"lora", "lycoris", "loha", "lokr", "adapter"})


def looks_like_adapter(inputs: ClassificationInputs) -> bool:
    """Tell whether the safetensors at the root are adapters.

    The header of the largest one decides. Only where it could not be read do the metadata of a
    trainer and the tags of the model card count: full models have those, too.
    """
    path = inputs.largest_root
    if not path:
        return False
    facts = inputs.headers.get(path)
    if facts is not None and facts.names:
        return are_adapter_names(facts.names)
    metadata = facts.metadata if facts is not None else {}
    return any(key.startswith("ss_") for key in metadata) or bool(_TAGS & set(tags_of(inputs)))


def are_adapter_names(names: Collection[str]) -> bool:
    """Tell whether most of a file's tensors are those of an adapter."""
    weights = [name for name in names if not _SCALES.search(name)]
    return sum(bool(_ADAPTER.search(name)) for name in weights) > _MOST * len(weights)


def tags_of(inputs: ClassificationInputs) -> list[str]:
    """Return the tags of the model card, in their order."""
    tags = inputs.card.get("tags")
    return [tag.lower() for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
