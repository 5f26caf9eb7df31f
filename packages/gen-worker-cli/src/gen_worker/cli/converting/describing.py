"""What a person reads of a model: a table that fits into 80 columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from gen_worker.cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gen_worker.conversion.convert import ComponentFacts, ModelFacts
    from gen_worker.conversion.convert.gguf_facts import GgufFacts
    from gen_worker.conversion.lora.facts import AdapterFacts

__all__ = ["count_text", "model_lines"]

_COLUMNS = 80
_LEAST_CLASS = 12
_NETWORKS = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}
_LEFT = 3
"""How many columns of components are texts; the others are numbers."""


def count_text(count: int) -> str:
    """Return a number with three digits or more: `72`, `860 M`, `1.24 B`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**4)):
        if count >= size:
            amount = count / (1000 if unit == "k" else size)
            return f"{amount:.{max(0, 2 - len(str(int(amount))) + 1)}f} {unit}"
    return str(count)


def model_lines(facts: ModelFacts) -> Iterator[str]:
    """Yield what a model is."""
    yield facts.path
    words = [facts.layout, facts.family, facts.class_name, size_text(facts.size_bytes)]
    yield "  " + ", ".join(word for word in words if word not in ("", "unknown"))
    if facts.components:
        yield from _component_table(facts.components)
    if facts.adapter is not None:
        yield from _adapter_lines(facts.adapter)
    if facts.gguf is not None:
        yield from _gguf_lines(facts.gguf)
    for reason in facts.refusals:
        yield from _wrapped("refused: ", [reason])


def _component_table(components: Sequence[ComponentFacts]) -> Iterator[str]:
    rows = [("component", "class", "dtype", "tensors", "params", "size")]
    rows += [
        (
            part.name or "model",
            part.class_name or "-",
            part.dtype or "-",
            str(part.tensors),
            count_text(part.parameters),
            size_text(part.size_bytes),
        )
        for part in components
    ]
    table = _table(rows)
    yield next(table)
    for part, line in zip(components, table, strict=True):
        yield line
        yield from _notes(part)


def _notes(part: ComponentFacts) -> Iterator[str]:
    """Yield what does not fit into a row, where there is anything."""
    notes = []
    if len(part.dtypes) > 1:
        most = sorted(part.dtypes.items(), key=lambda item: (-item[1], item[0]))
        notes.append(", ".join(f"{dtype} {size_text(size)}" for dtype, size in most))
    if part.quantization:
        notes.append(f"quantised, {part.quantization}")
    if part.files > 1:
        notes.append(f"{part.files} files")
    if notes:
        yield from _wrapped("  ", [f"{note};" for note in notes[:-1]] + notes[-1:])


def _adapter_lines(facts: AdapterFacts) -> Iterator[str]:
    networks = " and ".join(_NETWORKS.get(name, name) for name in facts.networks)
    yield f"  {networks} in the format of {facts.format}"
    for part in facts.components:
        yield from _wrapped(
            f"  {part.name or 'model'}: ",
            [
                f"{part.modules} modules,",
                *([f"rank {_numbers(part.ranks)},"] if part.ranks else []),
                *([f"alpha {_numbers(part.alphas)}:"] if part.alphas else []),
                _counts(part.targets),
            ],
        )
    yield from _wrapped("  base model: ", [_base(facts.lineage)])
    if facts.unknown:
        first, count = facts.unknown[0], len(facts.unknown)
        yield from _wrapped("  not of an adapter: ", [f"{count} tensors, such as {first}"])


def _base(lineage: Mapping[str, str]) -> str:
    names = ("base_model_repo", "base_model_specific_hint", "base_model_lineage")
    told = [lineage[name] for name in names if name in lineage]
    if not told and "base_model_family" in lineage:
        told = [lineage["base_model_family"]]
    source = lineage["lineage_source"]
    return f"{', '.join(told)} (by {source})" if told else "not said"


def _gguf_lines(facts: GgufFacts) -> Iterator[str]:
    words = [f"GGUF of {facts.architecture}", facts.file_type]
    if facts.kind != "model":
        words.append(facts.kind)
    if facts.parts > 1:
        here = facts.parts - len(facts.missing_parts)
        words.append(f"{here} of {facts.parts} files are here")
    if facts.name:
        words.append(facts.name)
    yield from _wrapped("  ", [", ".join(word for word in words if word)])
    yield from _wrapped("  tensors: ", [_counts(facts.types)])


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in most)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _wrapped(start: str, words: Sequence[str]) -> Iterator[str]:
    """Yield a paragraph whose later lines are indented; paths are not broken."""
    yield from textwrap.wrap(
        " ".join(words),
        _COLUMNS,
        initial_indent=f"  {start}",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = 2 + sum(widths) + 2 * (len(widths) - 1) - _COLUMNS
    widths[1] = max(widths[1] - max(excess, 0), min(widths[1], _LEAST_CLASS))
    for row in rows:
        cells = [
            f"{_cut(cell, width):<{width}}" if number < _LEFT else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}~"
