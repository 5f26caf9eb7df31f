"""One verification: loads, names and shapes, errors, and behaviour, in this order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from gen_worker.conversion.source import Source
from gen_worker.conversion.verify.comparing import compare, name_problems
from gen_worker.conversion.verify.gate import behaviour
from gen_worker.conversion.verify.gguf_files import gguf_problems
from gen_worker.conversion.verify.loading import load_problems
from gen_worker.conversion.verify.single_files import file_problems, single_file_in
from gen_worker.conversion.verify.values import (
    Difference,
    Limits,
    TensorReport,
    VerificationError,
    VerificationReport,
)
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import Checkpoint
    from gen_worker.conversion.verify.gate import QualityGate

__all__ = ["ReadBack", "verify_output"]

ReadBack: TypeAlias = "Callable[[str, Checkpoint], Checkpoint]"
"""From a component's name and its tensors as stored to those under the source's names."""
_DEFAULT_LIMITS = Limits()


def verify_output(
    result: ProducedFlavor | str | os.PathLike[str],
    source: Source | str | os.PathLike[str] | Mapping[str, Checkpoint],
    *,
    read_back: ReadBack | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    gate: QualityGate | None = None,
    loads: bool = True,
    origin: str | os.PathLike[str] | None = None,
    token: CancelToken | None = None,
) -> VerificationReport:
    """Prove that an output is what was asked for; blocks.

    Both are read once, slab by slab, whatever their size; only a quality gate runs a model.

    Args:
        result: The output, as it is going to be published.
        source: What it was made from; or, where tensors were renamed, merged or split, the recipes
            of what it should hold, by component (`""` for a model in one folder).
        read_back: Turns tensors as they are stored into those of the source: dequantised, and
            under the source's names. None: they are stored as they are.
        limits: What is not allowed.
        gate: Compares what both models give; needs a source that is a model.
        loads: Whether each component must load with the class its configuration declares; needs
            the library that has the class. Of a single file without a configuration, whether the
            components load that diffusers would make of it; of a GGUF file, whether its tensors
            are those that its metadata say.
        origin: Directory of the source where recipes of its own tensors stand for it: what does
            not load there either is not held against the output.
        token: Ends the work between two slabs.

    Raises:
        VerificationError: It is not; all that is wrong is listed.
        DamagedFileError: A file of either is damaged.
        CanceledError: The token was canceled.
    """
    path = os.fspath(result.path if isinstance(result, ProducedFlavor) else result)
    expected = _checkpoints(source)
    made = _made(path, expected, read_back)
    problems = _component_problems(made, expected)
    common = [name for name in expected if name in made]
    for name in common:
        problems += name_problems(name, made[name], expected[name])
    loaded: dict[str, str] = {}
    if loads:
        pairs = {name: (made[name], expected[name]) for name in common}
        loaded, found = _loaded(path, pairs, source if origin is None else origin)
        problems += [text for text in found if text not in problems]
    if problems:
        raise VerificationError(path, problems)
    tensors: list[TensorReport] = []
    for name in common:
        for report in compare(name, made[name], expected[name], token):
            tensors.append(report)
            problems += limits.problems(report)
    quality: Difference | None = None
    if gate is not None and not problems:
        quality, problems = behaviour(gate, _model_path(source), path)
    if problems:
        raise VerificationError(path, problems)
    return VerificationReport(loaded=loaded, tensors=tuple(tensors), quality=quality)


def _checkpoints(
    source: Source | str | os.PathLike[str] | Mapping[str, Checkpoint],
) -> Mapping[str, Checkpoint]:
    if isinstance(source, Mapping):
        return source
    return (source if isinstance(source, Source) else Source(source)).checkpoints()


def _made(
    path: str, expected: Mapping[str, Checkpoint], read_back: ReadBack | None
) -> dict[str, Checkpoint]:
    stored = Source(path).checkpoints()
    if read_back is None:
        return dict(stored)
    return {
        name: read_back(name, checkpoint) if name in expected else checkpoint
        for name, checkpoint in stored.items()
    }


def _component_problems(
    made: Mapping[str, Checkpoint], expected: Mapping[str, Checkpoint]
) -> list[str]:
    missing = [
        f"component {name or 'of the one folder'} is missing"
        for name in expected.keys() - made.keys()
    ]
    extra = [
        f"component {name or 'of the one folder'} is not one of the source"
        for name in made.keys() - expected.keys()
    ]
    return sorted(missing) + sorted(extra)


def _source_component(
    source: Source | str | os.PathLike[str] | Mapping[str, Checkpoint], component: str
) -> str:
    """Return the directory of a component of the source; empty where recipes stand for it."""
    return "" if isinstance(source, Mapping) else os.path.join(_model_path(source), component)


def _loaded(
    path: str,
    pairs: Mapping[str, tuple[Checkpoint, Checkpoint]],
    origin: Source | str | os.PathLike[str] | Mapping[str, Checkpoint],
) -> tuple[dict[str, str], list[str]]:
    """Return what loads as which class, by component, and what does not.

    Args:
        path: Of the output.
        pairs: What was made and what was expected, by component.
        origin: What it was made of; where that is recipes alone, nothing is known of it.
    """
    file = single_file_in(path)
    if file:
        problems_of = gguf_problems if file.endswith(".gguf") else file_problems
        return problems_of(file, "" if isinstance(origin, Mapping) else _model_path(origin))
    loaded: dict[str, str] = {}
    problems: list[str] = []
    for name, (made, expected) in pairs.items() if os.path.isdir(path) else ():
        own = _source_component(origin, name)
        known = (own, expected) if own else None
        place = os.path.join(path, name) if name else path
        loaded[name], found = load_problems(name, place, made, known)
        problems += found
    return loaded, problems


def _model_path(source: Source | str | os.PathLike[str] | Mapping[str, Checkpoint]) -> str:
    if isinstance(source, Mapping):
        raise TypeError(
            "a quality gate runs the source: give the model, not recipes of its tensors"
        )
    return os.fspath(source.path if isinstance(source, Source) else source)
