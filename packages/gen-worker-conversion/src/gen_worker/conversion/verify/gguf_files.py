"""Whether a GGUF file loads: its tensors beside what its own metadata say of the architecture.

llama.cpp refuses a file whose tensors have other sizes than the metadata say, that lacks one, or
has one that the architecture does not know. The library `gguf` reads the file a second time where
it is there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.architectures import ARCHITECTURES
from gen_worker.conversion.lazy.gguf_file import gguf_parts
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.formats.gguf import GgufArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.models.formats.gguf import GgufTensor

__all__ = ["gguf_problems"]

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_ENDS = ("token_embd.weight", "output_norm.weight")
_KNOWN = frozenset(one.name for one in ARCHITECTURES)
_TOKENS = "tokenizer.ggml.tokens"


def gguf_problems(file: str, origin: str) -> tuple[dict[str, str], list[str]]:
    """Compare the tensors of a language model, or of an encoder, with what its metadata say.

    Args:
        file: The output; of a split one, the first.
        origin: A GGUF file that it was made of, whose own faults are not held against it; empty
            or something else where there is none.

    Returns:
        The architecture, where the file is one of it, and what is wrong.
    """
    architecture, problems = _problems(file)
    if not problems:
        return ({"": architecture} if architecture else {}), []
    is_gguf = os.path.isfile(origin) and origin.lower().endswith(".gguf")
    before = set(_problems(origin)[1]) if is_gguf else set()
    return {}, [text for text in problems if text not in before]


def _problems(file: str) -> tuple[str, list[str]]:
    headers = [read_gguf_header(part) for part in gguf_parts(file)]
    metadata = headers[0].metadata
    tensors = {name: one for header in headers for name, one in header.tensors.items()}
    architecture = metadata.get("general.architecture")
    if architecture not in _KNOWN or metadata.get("general.type", "model") != "model":
        return "", _read_again(file)
    found = [*_blocks(metadata, architecture, tensors), *_unknown(architecture, tensors)]
    for name, tensor in tensors.items():
        found += _sizes(metadata, architecture, name, tensor)
    return architecture, [*found, *_read_again(file)]


def _blocks(
    metadata: Mapping[str, Any], architecture: str, tensors: Mapping[str, GgufTensor]
) -> Iterator[str]:
    """Yield what all blocks but some have, and what the beginning and the end of a model lack."""
    parts: dict[str, set[int]] = {}
    for name in tensors:
        block = _BLOCK.fullmatch(name)
        if block:
            parts.setdefault(block[2], set()).add(int(block[1]))
    count = metadata.get(f"{architecture}.block_count")
    wanted = set(range(count)) if isinstance(count, int) else set()
    for part, numbers in parts.items():
        yield from (f"tensor blk.{one}.{part} is missing" for one in sorted(wanted - numbers))
        for one in sorted(numbers - wanted):
            yield f"tensor blk.{one}.{part} is beyond the {count} blocks that it says it has"
    if not parts:
        yield "it has no blocks"
    ends = ("token_embd.weight",) if architecture == "bert" else _ENDS
    yield from (f"tensor {name} is missing" for name in ends if name not in tensors)


def _unknown(architecture: str, tensors: Mapping[str, GgufTensor]) -> Iterator[str]:
    try:
        import gguf  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return
    codes = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
    names = {gguf.TENSOR_NAMES[one] for one in gguf.MODEL_TENSORS[codes[architecture]]}
    for name in tensors:
        base = re.sub(r"^blk\.\d+\.", "blk.{bid}.", name).rpartition(".")[0]
        if base not in names and not base.startswith("rope_factors"):
            yield f"tensor {name} is none of the architecture {architecture}"


def _sizes(
    metadata: Mapping[str, Any], architecture: str, name: str, tensor: GgufTensor
) -> Iterator[str]:
    """Yield a tensor whose sizes are not those of the metadata."""

    def said(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    width, heads = said("embedding_length"), said("attention.head_count")
    keys = said("attention.head_count_kv") or heads
    if not all(isinstance(one, int) and one > 0 for one in (width, heads, keys)):
        return
    key_size = said("attention.key_length") or width // heads
    value_size = said("attention.value_length") or width // heads
    inner, tokens = said("feed_forward_length"), metadata.get(_TOKENS)
    vocabulary = tokens.length if isinstance(tokens, GgufArray) else None
    wanted = {
        "token_embd": (width, vocabulary),
        "output": (width, vocabulary),
        "output_norm": (width,),
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "attn_q": (width, heads * key_size),
        "attn_k": (width, keys * key_size),
        "attn_v": (width, keys * value_size),
        "attn_output": (heads * value_size, width),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner * 2 if architecture == "phi3" and inner else inner),
        "ffn_down": (inner, width),
    }.get(name.removesuffix(".weight").rpartition(".")[2])
    if wanted is None or not name.endswith(".weight"):
        return
    is_alike = len(wanted) == len(tensor.shape) and all(
        size in (None, there) for size, there in zip(wanted, tensor.shape, strict=True)
    )
    if not is_alike:
        shapes = list(reversed(tensor.shape)), list(reversed(wanted))
        yield f"tensor {name} is {shapes[0]}, the metadata want {shapes[1]}"


def _read_again(file: str) -> list[str]:
    """Return where the library `gguf` reads something else than this package does."""
    try:
        import gguf  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return []
    problems: list[str] = []
    for part in gguf_parts(file):
        ours = {
            name: (one.type_name, tuple(one.shape))
            for name, one in read_gguf_header(part).tensors.items()
        }
        try:
            theirs = {
                one.name: (one.tensor_type.name, tuple(int(size) for size in one.shape))
                for one in gguf.GGUFReader(part).tensors
            }
        except Exception as error:  # whatever a foreign reader thinks of this file
            problems.append(
                f"the library gguf cannot read {os.path.basename(part)!r}: {error!s:.300}"
            )
            continue
        problems += [
            f"tensor {name} is {ours.get(name)}, the library gguf reads {theirs.get(name)}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
    return problems
