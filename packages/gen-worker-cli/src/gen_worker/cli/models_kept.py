"""`gen-worker models ls`, `rm`, `verify` and `du`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.cli.signals import interruptible
from gen_worker.cli.sizes import age_text, size_text
from gen_worker.models.assembly import open_store
from gen_worker.models.on_disk import ModelsOnDisk, StoredModel
from gen_worker.models.settings import load_model_settings

if TYPE_CHECKING:
    import argparse
    from collections import Counter
    from collections.abc import Callable, Sequence

    from gen_worker.models.store import ContentStore

__all__ = ["run"]

_DAMAGED = 1
_SHORT = 12


class Answer(NamedTuple):
    """What is printed: documents for programs, lines for a person; and the exit code."""

    documents: Sequence[Any]
    lines: Sequence[str]
    code: int = 0


class _Desk(NamedTuple):
    """What the actions work with."""

    store: ContentStore
    disk: ModelsOnDisk
    cancel: CancelToken


def run(args: argparse.Namespace) -> int:
    """Run one of the actions and print what it found."""
    out, cancel, settings = divert_stdout(), CancelToken(), load_model_settings()
    store = open_store(settings=settings)
    desk = _Desk(store, ModelsOnDisk(store, settings.hf_home), cancel)

    def act() -> int:
        answer = _ACTIONS[args.action](desk, args)
        if args.json or not os.isatty(out.fileno()):
            printer = ResultPrinter(out, envelope=False)
            for document in answer.documents:
                printer.print("result", document)
        else:
            out.write("".join(f"{line}\n" for line in answer.lines).encode())
        return answer.code

    return interruptible(act, cancel)


def _list(desk: _Desk, args: argparse.Namespace) -> Answer:
    word = "".join(args.tokens).lower()
    models = [
        model
        for model in desk.disk.models()
        if word in " ".join((*model.names, model.digest)).lower()
    ]
    lines = _table(
        [
            (
                model.digest[:_SHORT],
                size_text(model.size_bytes),
                age_text(time.time() - model.last_use),
                _state(model),
                ", ".join(model.names) or "-",
            )
            for model in reversed(models)
        ]
    )
    return Answer([_document(model) for model in models], lines or ["no models are here"])


def _remove(desk: _Desk, args: argparse.Namespace) -> Answer:
    documents, lines = [], []
    # All are found before the first goes.
    chosen = {model.path: model for model in map(desk.disk.find, args.tokens)}
    for model in chosen.values():
        freed = desk.disk.remove(model)
        documents.append({**_document(model), "freed_bytes": freed})
        lines.append(f"removed {_title(model)}: {size_text(freed)} freed")
    return Answer(documents, lines)


def _verify(desk: _Desk, args: argparse.Namespace) -> Answer:
    from gen_worker.cli.models_checked import check, repair
    from gen_worker.models.sources import open_sources

    models = [desk.disk.find(word) for word in args.tokens] if args.tokens else desk.disk.models()
    damages = check(desk.store, desk.disk, models, everything=not args.tokens, token=desk.cancel)
    documents: list[dict[str, Any]] = [
        {"model": _title(model), "digest": model.digest, "path": path, "damaged": True}
        for model, path in damages
    ]
    lines = [f"damaged: {path} of {_title(model)}" for model, path in damages]
    remaining = len(damages)
    if args.repair and damages:
        with open_sources(desk.store, may_resolve=True) as sources:
            for model in {model.path: model for model, _ in damages}.values():
                problem = repair(sources, model, desk.cancel)
                if not problem:
                    remaining -= sum(one.path == model.path for one, _ in damages)
                documents.append(
                    {"model": _title(model), "repaired": not problem, "error": problem or None}
                )
                lines.append(f"{_title(model)}: {problem or 'fetched again'}")
    whole = len(models) - len({model.path for model, _ in damages})
    documents.append({"checked": len(models), "whole": whole, "damaged_files": len(damages)})
    lines.append(f"{len(models)} models read, {len(damages)} damaged files")
    return Answer(documents, lines, _DAMAGED if remaining else 0)


def _usage(desk: _Desk, _args: argparse.Namespace) -> Answer:
    from collections import Counter

    models, usage = desk.disk.models(), desk.store.usage()
    users = Counter(part for model in models for part in model.parts)
    rows = [{**_brief(model), "own_bytes": _own_bytes(model, users)} for model in models]
    every = {part: size for model in models for part, size in model.parts.items()}
    total = sum(every.values())
    shared = sum(size for part, size in every.items() if users[part] > 1)
    unneeded = usage.loose_bytes + usage.partial_bytes
    summary = {
        "total_bytes": total,
        "shared_bytes": shared,
        "partial_bytes": usage.partial_bytes,
        "collectable_bytes": unneeded,
        "free_bytes": usage.free_bytes,
        "budget_bytes": usage.budget_bytes or None,
        "store": desk.store.root,
    }
    lines = _table(
        [
            (size_text(model.size_bytes), size_text(_own_bytes(model, users)), _title(model))
            for model in sorted(models, key=lambda model: -model.size_bytes)
        ],
        ("size", "its own", "model"),
    )
    lines += [
        f"{size_text(total)} in all, {size_text(shared)} of it shared; "
        f"{size_text(usage.free_bytes)} are free",
        f"{size_text(unneeded)} nobody needs, "
        f"{size_text(usage.partial_bytes)} of it of downloads that are not done: it goes first "
        "when room is needed",
    ]
    return Answer([*rows, summary], lines)


_ACTIONS: dict[str, Callable[[_Desk, argparse.Namespace], Answer]] = {
    "ls": _list,
    "rm": _remove,
    "verify": _verify,
    "du": _usage,
}


def _own_bytes(model: StoredModel, users: Counter[str]) -> int:
    return sum(size for part, size in model.parts.items() if users[part] == 1)


def _brief(model: StoredModel) -> dict[str, Any]:
    names = ("provider", "names", "digest", "size_bytes")
    return {name: getattr(model, name) for name in names}


def _document(model: StoredModel) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.structs.asdict(model)
    del document["parts"]
    return document


def _title(model: StoredModel) -> str:
    return model.names[0] if model.names else model.digest


def _state(model: StoredModel) -> str:
    marks = (("in use", model.used_by), ("pinned", model.is_pinned), ("damaged", model.is_damaged))
    return ", ".join(mark for mark, holds in marks if holds)


def _table(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> list[str]:
    """Return lines with aligned columns; empty columns are left out."""
    if not rows:
        return []
    every = [heading, *rows] if heading else list(rows)
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width
        ).rstrip()
        for row in every
    ]
