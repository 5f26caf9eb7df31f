"""A plan carried out: component by component, resumable, and visible only when all is there."""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.convert.notices import notices_in
from gen_worker.conversion.convert.outputs import outputs_of
from gen_worker.conversion.convert.staging import Staging, finish_publishing, recipe_of
from gen_worker.conversion.convert.targets import Target
from gen_worker.conversion.convert.values import ConversionResult, ConvertedFile, Progress
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.side_files import (
    copy_side_files,
    copy_whole,
    set_config_dtype,
    set_quantization_config,
    write_json,
)
from gen_worker.conversion.writer import write_safetensors
from gen_worker.conversion.writer.output_file import make_directories
from gen_worker.models.loading.errors import MissingPackageError
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.convert.outputs import Output
    from gen_worker.conversion.convert.values import ConversionPlan, FlavorPlan
    from gen_worker.conversion.gguf.writing import WrittenGguf
    from gen_worker.conversion.writer import Written
    from gen_worker.conversion.writer.output_file import WrittenFile

__all__ = ["RefusedPlanError", "run_conversion"]


class RefusedPlanError(ConversionInputError):
    """A plan has refusals; `problems` names all of them."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems), step="plan")
        self.problems = problems

    def __reduce__(self) -> tuple[type[RefusedPlanError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


def run_conversion(
    plan: ConversionPlan,
    *,
    progress: Callable[[Progress], None] | None = None,
    on_file: Callable[[str], None] | None = None,
    token: CancelToken | None = None,
    journal: bool = True,
) -> ConversionResult:
    """Make the outputs of a plan; blocks. The same plan gives the same bytes, every time.

    Nothing is at its place until all outputs are complete. A canceled or killed run is gone on
    with by the next one of an equal plan, which repeats at most one file of weights; after a
    failure nothing is left. Of a plan that is finished nothing is done.

    Args:
        plan: Of `plan_conversion`.
        progress: Called in this thread, often; it may raise.
        on_file: Called in this thread with the path of each finished file of weights, which is
            moved to its place later; such as `ctx.publish_early`.
        token: Ends the work between two slabs.
        journal: Whether an interrupted run of the same plan is gone on with.

    Raises:
        RefusedPlanError: The plan has refusals.
        MissingPackageError: torch is not installed.
        OutputSpaceError: The disk has no room.
        ConversionError: An output cannot be written.
        DamagedFileError: The source changed meanwhile.
        CanceledError: The token was canceled.
    """
    if plan.refusals:
        raise RefusedPlanError(
            tuple(
                f"{one.target}: {one.reason}" if one.target else one.reason for one in plan.refusals
            )
        )
    if plan.is_finished:
        finish_publishing(plan.request.out)
        flavors = tuple(_produced(flavor) for flavor in plan.flavors)
        return ConversionResult(flavors=flavors, files={}, nonfinite={}, resumed=0, seconds=0.0)
    _need_torch()
    with Staging(plan.request.out, recipe_of(plan.request), may_resume=journal) as staging:
        run = _Run(plan, staging, progress, on_file, token)
        result = run.all()
        staging.publish()
    return result


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise MissingPackageError(
            "a conversion needs 'torch', without which there are only plans: install "
            "'gen-worker[torch,conversion]'",
            package="torch",
        )


class _Run:
    """The work of one call."""

    def __init__(
        self,
        plan: ConversionPlan,
        staging: Staging,
        progress: Callable[[Progress], None] | None,
        on_file: Callable[[str], None] | None,
        token: CancelToken | None,
    ) -> None:
        self.plan = plan
        self.request = plan.request
        self.staging = staging
        self.progress = progress
        self.on_file = on_file
        self.token = token
        self.total_bytes = plan.size_bytes
        self.done_bytes = 0
        self.resumed = 0
        self.nonfinite: dict[str, tuple[int, int]] = {}

    def all(self) -> ConversionResult:
        started = time.monotonic()
        files = {flavor.flavor: self._flavor(flavor) for flavor in self.plan.flavors}
        return ConversionResult(
            flavors=tuple(_produced(flavor) for flavor in self.plan.flavors),
            files=files,
            nonfinite=self.nonfinite,
            resumed=self.resumed,
            seconds=time.monotonic() - started,
        )

    def _flavor(self, flavor: FlavorPlan) -> tuple[ConvertedFile, ...]:
        place = self.staging.output
        if len(self.plan.flavors) > 1:
            place = os.path.join(place, flavor.flavor)
        make_directories(place)
        files: list[ConvertedFile] = []
        target = target_of(flavor.token)
        outputs = outputs_of(self.request, target)
        for output in outputs:
            if self.token is not None:
                self.token.raise_if_canceled()
            files += self._component(flavor, place, output)
        if outputs[0].is_whole_model:
            for name in notices_in(self.request.source):
                copy_whole(os.path.join(self.request.source, name), place)
            _write_configs(place, outputs[0].configs)
        else:
            self._complete(place, outputs)
        return tuple(files)

    def _component(self, flavor: FlavorPlan, place: str, output: Output) -> list[ConvertedFile]:
        root = os.path.join(place, output.component) if output.component else place
        if output.folder:
            copy_whole(output.folder, root)
            size = sum(tensor.size_bytes for tensor in output.made.values())
            self._tell(flavor.flavor, output.component, self.done_bytes + size)
            return []
        written = self._write(flavor, root, output)
        self.resumed += written.resumed
        for name, counts in written.nonfinite.items():
            label = "/".join(filter(None, (flavor.flavor, output.component, name)))
            self.nonfinite[label] = (counts[0], counts[1])
        index = getattr(written, "index_file", None)
        named = (*written.files, *([index] if index else []))
        return [
            ConvertedFile(
                path=os.path.relpath(file.path, place).replace(os.sep, "/"),
                size_bytes=file.size_bytes,
                blake3=file.blake3,
            )
            for file in named
        ]

    def _write(self, flavor: FlavorPlan, root: str, output: Output) -> Written | WrittenGguf:
        before = self.done_bytes

        def follow(done: int, _total: int) -> None:
            self._tell(flavor.flavor, output.component, before + done)

        self._calibrate(flavor, output)
        journal = self.staging.journal(f"{flavor.flavor}.{output.component}")
        if output.action == "gguf":
            from gen_worker.conversion.gguf.writing import write_gguf

            file = os.path.join(root, f"{output.prefix}.gguf")
            return write_gguf(
                output.made,
                output.metadata,
                file,
                split_max_bytes=self.request.gguf.split_max_bytes,
                max_name_bytes=output.max_name_bytes,
                journal=journal,
                progress=follow,
                on_file=self._made,
                token=self.token,
            )
        return write_safetensors(
            output.made,
            root,
            prefix=output.prefix,
            max_shard_bytes=self._max_shard_bytes(),
            metadata=output.metadata,
            journal=journal,
            progress=follow,
            on_file=self._made,
            token=self.token,
        )

    def _made(self, file: WrittenFile) -> None:
        if self.on_file is not None:
            self.on_file(file.path)

    def _max_shard_bytes(self) -> int:
        is_one = self.request.layout == "singlefile"
        return sys.maxsize if is_one else self.request.max_shard_bytes

    def _calibrate(self, flavor: FlavorPlan, output: Output) -> None:
        """Find out what an output awaits; what an interrupted run has found counts."""
        if output.calibration is None:
            return

        def follow(done: int, total: int) -> None:
            if self.progress is not None:
                told = Progress(
                    flavor=flavor.flavor,
                    component=output.component,
                    done_bytes=self.done_bytes,
                    total_bytes=self.total_bytes,
                    calibrated=done / total,
                )
                self.progress(told)

        folder = os.path.join(self.staging.root, f"{flavor.flavor}.{output.component}.calibration")
        output.calibration.run(folder, progress=follow, token=self.token)

    def _tell(self, flavor: str, component: str, done_bytes: int) -> None:
        self.done_bytes = done_bytes
        if self.progress is not None:
            self.progress(
                Progress(
                    flavor=flavor,
                    component=component,
                    done_bytes=min(done_bytes, self.total_bytes),
                    total_bytes=self.total_bytes,
                )
            )

    def _complete(self, place: str, outputs: tuple[Output, ...]) -> None:
        """Copy what is no weights, and say in configurations what the weights are now."""
        written = [output for output in outputs if not output.folder]
        root = self.request.configs or self.request.source
        if os.path.isdir(root):
            for output in written:
                if output.component:
                    inside = os.path.join(place, output.component)
                    copy_side_files(os.path.join(root, output.component), inside)
            skip = {output.component for output in outputs} | _absent_from(outputs[0].configs)
            copy_side_files(root, place, skip=skip)
        _write_configs(place, outputs[0].configs)
        for output in written:
            folder = os.path.join(place, output.component)
            if output.torch_dtype:
                set_config_dtype(folder, output.torch_dtype)
            if output.quantization:
                set_quantization_config(folder, output.quantization)


def _absent_from(configs: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the components that a new pipeline has not, by its index."""
    index = configs.get("model_index.json", {})
    return {name for name, kind in index.items() if kind == [None, None]}


def _write_configs(place: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
    for path, content in configs.items():
        write_json(os.path.join(place, path), content)


def target_of(name: str) -> Target:
    """Return a target by the name that a plan gives it."""
    return Target(name.removeprefix("gguf:"), name.startswith("gguf:"))


def _produced(flavor: FlavorPlan) -> ProducedFlavor:
    return ProducedFlavor(
        path=flavor.path, flavor=flavor.flavor, attributes=dict(flavor.attributes)
    )
