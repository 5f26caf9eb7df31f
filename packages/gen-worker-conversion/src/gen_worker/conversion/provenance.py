"""Where an output comes from: source, recipe, tools, hashes. The same output, the same text."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.writer.output_file import OutputFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.conversion.verify import VerificationReport

__all__ = [
    "PROVENANCE_FILE",
    "VERIFICATION_FILE",
    "Provenance",
    "hashes_of",
    "proof_files",
    "write_proof",
]

PROVENANCE_FILE = "provenance.json"
VERIFICATION_FILE = "verification.json"
_CARD_FILE = "README.md"
_OURS = frozenset({PROVENANCE_FILE, VERIFICATION_FILE, _CARD_FILE})
_TOOLS = (
    *("gen-worker-conversion", "torch", "diffusers", "transformers", "safetensors", "gguf"),
    *("torchao", "bitsandbytes", "compressed-tensors"),
)


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What an output was made from, with what, and what came of it. It names no time and place."""

    source_ref: str
    source_revision: str = ""
    """Checkpoint id or commit; empty where nobody knows one."""
    source_files: dict[str, str] = {}
    """`<algorithm>:<hex>` by path."""
    recipe: dict[str, Any] = {}
    """What was asked for, as plain JSON values."""
    recipe_hash: str = ""
    tools: dict[str, str] = {}
    """Versions by distribution."""
    files: dict[str, str] = {}
    """Of the output: `blake3:<hex>` by path."""
    schema_version: int = 1

    @classmethod
    def of(
        cls,
        *,
        source_ref: str,
        recipe: Mapping[str, Any],
        source_revision: str = "",
        source_files: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Provenance:
        """Describe an output made by the packages of this environment."""
        from blake3 import blake3

        plain = msgspec.to_builtins(dict(recipe), str_keys=True, order="deterministic")
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return cls(
            source_ref=source_ref,
            source_revision=source_revision,
            source_files=dict(sorted((source_files or {}).items())),
            recipe=plain,
            recipe_hash=f"blake3:{blake3(text.encode()).hexdigest()}",
            tools=dict(_versions()),
            files=dict(sorted((files or {}).items())),
        )

    def facts(self) -> dict[str, Any]:
        """Return what a flavor's attributes say of it; hashes of files stay in the file."""
        return {
            "source_ref": self.source_ref,
            "source_revision": self.source_revision,
            "recipe_hash": self.recipe_hash,
            "tools": self.tools,
        }


def hashes_of(
    path: str | os.PathLike[str], known: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the blake3 digests of a file, or of all files below a directory.

    What this module and the card write is left out.

    Args:
        path: What is read.
        known: Digests of files below it, by path, which are not read.
    """
    from gen_worker.models.store.durable import hash_file

    place = os.fspath(path)
    if os.path.isfile(place):
        return {os.path.basename(place): f"blake3:{hash_file(place)}"}
    names = {
        os.path.relpath(file, place).replace(os.sep, "/"): file
        for file in sorted(_files_below(place))
        if os.path.relpath(file, place) not in _OURS
    }
    return {
        name: known[name] if name in known else f"blake3:{hash_file(file)}"
        for name, file in names.items()
    }


def proof_files(directory: str | os.PathLike[str]) -> frozenset[str]:
    """Return the names of what `write_proof` writes, if that is what a directory has.

    They are about this output, and never about one that is made of it.
    """
    try:
        with open(os.path.join(directory, PROVENANCE_FILE), "rb") as file:
            msgspec.json.decode(file.read(), type=Provenance)
    except (OSError, msgspec.DecodeError):
        return frozenset()
    return _OURS


def write_proof(
    directory: str | os.PathLike[str],
    provenance: Provenance,
    report: VerificationReport | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    relation: str = "",
) -> dict[str, Any]:
    """Write provenance, report and model card into an output, to be published with it.

    Args:
        directory: Of the output.
        provenance: Where it comes from.
        report: Of its verification; None where there was none.
        source: Directory of the source, whose card and licence are carried over.
        relation: Of the output to the source as model cards name it, such as `quantized`.

    Returns:
        What belongs to the flavor's attributes: `provenance` and `verification`.

    Raises:
        OutputSpaceError: The disk is full.
        ConversionError: A file cannot be written.
    """
    from gen_worker.conversion.card import model_card

    place = os.fspath(directory)
    facts: dict[str, Any] = {"provenance": provenance.facts()}
    _write(os.path.join(place, PROVENANCE_FILE), _text_of(provenance))
    if report is not None:
        facts["verification"] = report.summary()
        _write(os.path.join(place, VERIFICATION_FILE), _text_of(report))
    card = model_card(provenance, report, source=source, relation=relation)
    _write(os.path.join(place, _CARD_FILE), card.encode())
    return facts


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in _TOOLS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _files_below(directory: str) -> Iterator[str]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield os.path.join(parent, name)


def _text_of(value: msgspec.Struct) -> bytes:
    plain = msgspec.to_builtins(value, order="deterministic")
    return json.dumps(plain, indent=2).encode() + b"\n"


def _write(path: str, data: bytes) -> None:
    with OutputFile(path) as file:
        file.write(data)
        file.finish()
