"""The engine of this process behind the HTTP app, with the files and models of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.endpoint.job_record import request_type_of
from gen_worker.errors import UnknownFunctionError, ValidationError
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.names import slugify_name
from gen_worker.paths import safe_join
from gen_worker.runtime.engine import EngineLimits
from gen_worker.runtime.files.kept import kept_file
from gen_worker.runtime.http.backend import Health, ServedFunction, StoredFile
from gen_worker.runtime.http.memory_jobs import MemoryJobs
from gen_worker.runtime.http.upload_refs import upload_ref
from gen_worker.runtime.telemetry.metrics import Metrics
from gen_worker.schema import SchemaError, json_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.context.local import LocalOutputs
    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Engine, Invocation, RunningCall, Sink
    from gen_worker.runtime.http.backend import FileRoom, ModelRoom, Target
    from gen_worker.runtime.http.memory_jobs import JobLimits
    from gen_worker.spec import FunctionSpec

__all__ = ["LocalBackend", "LocalFileRoom"]


class LocalBackend:
    """Calls run in this process, which has one copy of one endpoint, whatever a tag says."""

    def __init__(
        self,
        engine: Engine,
        *,
        endpoint: str = "",
        files: FileRoom | None = None,
        models: ModelRoom | None = None,
        device: str | None = None,
        metrics: Callable[[], bytes] | None = None,
        jobs: JobLimits | None = None,
        max_queue: int = EngineLimits().max_queue,
        report: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        """Answer for an engine; made on the loop it runs on.

        Args:
            engine: Runs the calls.
            endpoint: The project's name; callers may put it before a function's.
            files: Where outputs are.
            models: Of this machine.
            device: Where every call runs; None leaves it to the engine.
            metrics: Makes the text of `/metrics`; by default the engine's own figures.
            jobs: What is kept of submitted requests.
            max_queue: Of the engine's limits: with as many calls waiting, this host is not ready.
            report: Told of every submitted request that failed; the app tells of the others.
        """
        self.direct = self
        self.jobs = MemoryJobs(self.submit, jobs, report=report)
        self.files = files
        self.models = models
        self.routes = ()
        self.is_starting = False
        """Whether setups are still to be run before anybody should call."""
        self._engine = engine
        self._endpoint = endpoint
        self._device = device
        self._max_queue = max_queue
        self._metrics = metrics or Metrics(engine.statistics).exposition
        self._served: tuple[ServedFunction, ...] | None = None

    def find(self, target: Target) -> str:
        if target.endpoint and slugify_name(target.endpoint) != slugify_name(self._endpoint):
            raise UnknownFunctionError(
                f"there is no endpoint {target.endpoint!r} here: it is {self._endpoint!r}"
            )
        return self._engine.lookup(target.function).name

    async def functions(self) -> Sequence[ServedFunction]:
        if self._served is None:
            specs = self._engine.functions.values()
            self._served = tuple(_served(spec, self._endpoint) for spec in specs)
        return self._served

    def submit(self, invocation: Invocation, sink: Sink) -> RunningCall:
        if self._device is not None:
            invocation = msgspec.structs.replace(invocation, device=self._device)
        return self._engine.submit(invocation, sink)

    async def warm_up(self, function: str) -> None:
        await self._engine.setup([function])

    def health(self) -> Health:
        figures = self._engine.statistics()
        broken, unready = [], []
        if figures.stuck_threads:
            broken.append(f"{figures.stuck_threads} handler(s) do not stop")
        if self.is_starting:
            unready.append("setup is under way")
        unready += [f"setup of {name} failed" for name in self._engine.failed_setups]
        if figures.queued >= self._max_queue:
            unready.append(f"{figures.queued} calls are waiting")
        return Health(broken=tuple(broken), unready=tuple(unready))

    def status(self) -> dict[str, Any]:
        return {"endpoint": self._endpoint, "engine": self._engine.statistics()}

    def metrics(self) -> bytes:
        return self._metrics()


def _served(spec: FunctionSpec, endpoint: str) -> ServedFunction:
    output = spec.delta_type if spec.is_streamed else spec.result_type
    return ServedFunction(
        name=spec.name,
        registered_name=spec.registered_name,
        python_name=spec.python_name,
        endpoint=endpoint,
        kind=spec.kind,
        output_mode=spec.output_mode,
        input_schema=_schema(request_type_of(spec)),
        output_schema=_schema(output),
        label=spec.label,
        description=spec.description,
        timeout_ms=spec.timeout_ms,
    )


def _schema(annotation: Any) -> dict[str, Any] | None:
    if annotation is None:
        return None
    try:
        return json_schema(annotation)
    except SchemaError:  # discovery told the author; a caller can do without
        return None


class LocalFileRoom:
    """Outputs below one directory, and what callers upload beside them; all are everybody's."""

    def __init__(self, outputs: LocalOutputs) -> None:
        self._outputs = outputs

    def find(self, ref: str, _owner: str | None) -> StoredFile:
        try:
            path = kept_file(self._outputs, ref)
        except ValidationError:
            path = None
        if path is None:
            raise Refusal(404, "file_not_found", "there is no such file")
        return StoredFile(path)

    def new_upload(self, name: str, _owner: str | None) -> _Upload:
        ref = upload_ref(name)
        path = safe_join(self._outputs.root, ref)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _Upload(ref, path)


class _Upload(NamedTuple):
    """An upload, written where it stays."""

    ref: str
    path: str

    def keep(self) -> None: ...

    def discard(self) -> None:
        folder = os.path.dirname(self.path)
        with suppress(OSError):  # it had not begun
            os.unlink(self.path)
        with suppress(OSError):
            os.rmdir(folder)
            os.rmdir(os.path.dirname(folder))
