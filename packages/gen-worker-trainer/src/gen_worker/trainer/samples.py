"""Samples: what a trainer makes of each prompt, as files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.trainer.calling import accepted
from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.errors import TrainingCanceled
from gen_worker.trainer.grids import Column, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.trainer.job_file import SampleRequest
    from gen_worker.trainer.steps import StepContext

__all__ = ["Samples"]

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}
_IMAGES = frozenset(_SUFFIXES.values())
_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


class _Made(NamedTuple):
    facts: Mapping[str, Any]
    files: Sequence[tuple[str, bytes]]
    """Suffix and content of each."""


class Samples:
    """Writes the samples of one run into one directory."""

    def __init__(self, directory: str, requests: Sequence[SampleRequest], seed: int | None) -> None:
        """Prepare.

        Args:
            directory: Made when the first sample is written.
            requests: Made at each time; without any, only that it was time is noted.
            seed: Of requests that have none, so that the same prompt can be compared over time.
        """
        self._directory = directory
        self._requests = requests
        self._seed = seed

    def inside(self, directory: str) -> Samples:
        """Return the same for another directory."""
        return Samples(directory, self._requests, self._seed)

    def write(
        self,
        step: int,
        state: Any,
        ctx: StepContext,
        *,
        is_canceled: Callable[[], bool] = lambda: False,
    ) -> list[str]:
        """Make and write all samples of a step; return the paths that are reported.

        Images are also shown side by side, in `step-NNNNNNNN-grid.png`, if Pillow is installed.

        Args:
            step: Completed steps.
            state: The trainer's.
            ctx: For `generate_sample`.
            is_canceled: Looked at before each but the first.

        Raises:
            TrainingCanceled: The rest is not wanted now.
            Exception: What `generate_sample` of the trainer raised.
            OSError: The disk is full, or fails.
        """
        os.makedirs(self._directory, exist_ok=True)
        base = os.path.join(self._directory, f"step-{step:08d}")
        if not self._requests:
            note = {"step": step, "request_id": ctx.job.request_id, "mode": "t2i", "prompt": ""}
            write_file(base + ".json", _encode(note))
            line = f"sample step={step} request_id={ctx.job.request_id}\n"
            write_file(base + ".txt", line.encode())
            return [base + ".txt"]
        generate = _generator_of(state)
        paths: list[str] = []
        columns: list[Column] = []
        for index, request in enumerate(self._requests):
            if index and is_canceled():
                raise TrainingCanceled
            files, made = self._one(f"{base}-{index:02d}", step, request, generate, ctx)
            paths += files
            images = [content for suffix, content in made.files if suffix in _IMAGES]
            columns.append(Column(request.prompt or request.instruction or request.name, images))
        if any(column.images for column in columns) and (grid := grid_of(columns)) is not None:
            write_file(base + "-grid.png", grid)
            paths.append(base + "-grid.png")
        return paths

    def _one(
        self,
        base: str,
        step: int,
        request: SampleRequest,
        generate: Callable[..., Any] | None,
        ctx: StepContext,
    ) -> tuple[list[str], _Made]:
        seed = self._seed if request.seed is None else request.seed
        facts = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "instruction": request.instruction,
            "source_image": request.source_image,
            "seed": seed,
            "mode": request.mode,
            "step": step,
        }
        made = _Made({}, ())
        if generate is not None:
            offered = {**facts, "ctx": ctx, "request": request}
            made = _made_of(generate(**accepted(generate, offered)))
        files: list[str] = []
        for number, (suffix, content) in enumerate(made.files):
            path = f"{base}{suffix}" if number == 0 else f"{base}-{number}{suffix}"
            write_file(path, content)
            files.append(path)
        record = {**facts, "request_id": ctx.job.request_id, **made.facts}
        if files:
            record["files"] = [os.path.basename(path) for path in files]
        write_file(base + ".json", _encode(record))
        return [base + ".json", *files], made


def _generator_of(state: Any) -> Callable[..., Any] | None:
    found = (
        state.get("generate_sample")
        if isinstance(state, Mapping)
        else getattr(state, "generate_sample", None)
    )
    return found if callable(found) else None


def _made_of(result: Any) -> _Made:
    """Take apart what a generator returned: facts, images, bytes, or several of these."""
    if result is None:
        return _Made({}, ())
    if isinstance(result, Mapping):
        files = [file for value in result.values() for file in _files_of(value)]
        facts = {name: value for name, value in result.items() if not _files_of(value)}
        return _Made(facts, files)
    return _Made({}, _files_of(result))


def _files_of(value: Any) -> list[tuple[str, bytes]]:
    if isinstance(value, (bytes, bytearray)):
        content = bytes(value)
        known = (suffix for start, suffix in _SUFFIXES.items() if content.startswith(start))
        return [(next(known, ".bin"), content)]
    if isinstance(value, (list, tuple)):
        return [file for one in value for file in _files_of(one)]
    if callable(getattr(value, "save", None)) and hasattr(value, "getbands"):  # a PIL image
        buffer = io.BytesIO()
        value.save(buffer, "PNG")
        return [(".png", buffer.getvalue())]
    return []
