"""A host for tests: a laptop's files in a temporary directory, models that are plain objects."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.context.local import run_blocking
from gen_worker.errors import ModelResolutionError
from gen_worker.ports import NOBODY, Ports
from gen_worker.runtime.local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from gen_worker.context.local_stream import LocalStream
    from gen_worker.events import Telemetry
    from gen_worker.ports import FileLimits, ModelRequest, Models, SaveOptions
    from gen_worker.spec import Binding, FunctionSpec
    from gen_worker.types import Asset, Tensors

__all__ = [
    "FakeFiles",
    "FakeModels",
    "FakePublisher",
    "Faults",
    "PreparedModel",
    "RecordedEvents",
    "fake_ports",
]


class Faults:
    """Which port methods fail next."""

    def __init__(self) -> None:
        self._scripted: dict[str, list[tuple[BaseException, int | None]]] = {}
        self._lock = threading.Lock()

    def script(self, method: str, error: BaseException, times: int | None = 1) -> None:
        """Let a port method raise.

        Args:
            method: Port and method, such as `files.save`.
            error: What it raises.
            times: How often, before it works again; None means always.
        """
        with self._lock:
            self._scripted.setdefault(method, []).append((error, times))

    def check(self, method: str) -> None:
        """Raise what is scripted for this method; called by the ports first of all."""
        with self._lock:
            pending = self._scripted.get(method)
            if not pending:
                return
            error, times = pending[0]
            if times is not None:
                pending[0] = (error, times - 1)
                if times <= 1:
                    del pending[0]
        raise error


class RecordedEvents:
    """An `Events` port that keeps everything."""

    def __init__(self) -> None:
        self._events: list[Telemetry] = []
        self._changed = threading.Condition()

    def emit(self, event: Telemetry) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Telemetry]:
        return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def of(self, request_id: str) -> list[Telemetry]:
        """Return the events of one call, in order."""
        return [event for event in self if event.request_id == request_id]

    def wait_for(self, matches: Callable[[Telemetry], bool], timeout_s: float = 30.0) -> Telemetry:
        """Wait for the first event that matches, and return it.

        Raises:
            TimeoutError: There was none, in real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: any(map(matches, self._events)), timeout_s):
                raise TimeoutError(f"no such event within {timeout_s} s")
            return next(filter(matches, self._events))


class FakeFiles(LocalFiles):
    """The real files of a laptop, below a temporary directory."""

    def __init__(self, root: Path, faults: Faults) -> None:
        super().__init__(str(root / "outputs"))
        self._inputs = root / "inputs"
        self._outputs = root / "outputs"
        self._faults = faults
        self.released: list[str] = []
        """Requests whose files were released, in order."""

    def add(self, name: str, content: bytes) -> str:
        """Store an input and return the ref a payload names it by."""
        path = self._inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    @property
    def refs(self) -> list[str]:
        """Refs of every output stored so far, sorted."""
        found = (path for path in self._outputs.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._outputs)).replace(os.sep, "/") for path in found)

    def read(self, ref: str) -> bytes:
        """Return the content of an output."""
        return (self._outputs / ref).read_bytes()

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        self._faults.check("files.materialize")
        return await super().materialize(value, limits, request_id=request_id)

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        self._faults.check("files.save")
        return await super().save(ref, source, options, request_id=request_id)

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> LocalStream:
        self._faults.check("files.open_output")
        return await super().open_output(ref, options, request_id=request_id)

    async def release(self, request_id: str) -> None:
        self.released.append(request_id)
        self._faults.check("files.release")
        await super().release(request_id)


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What `FakeModels.prepare` was asked for."""

    parameter: str
    choice: dict[str, Any]
    annotation: Any = None


class FakeModels:
    """A `Models` port whose models are plain objects."""

    def __init__(
        self, objects: Mapping[str, Any], functions: Iterable[FunctionSpec], faults: Faults
    ) -> None:
        """Say which object each parameter receives.

        Args:
            objects: By parameter name, of functions and of `setup`. A ref such as `acme/painter`
                is a name too, for dispatch tables and overrides; it wins.
            functions: The functions under test, to tell parameters by their bindings.
            faults: Which methods fail.
        """
        self.objects = dict(objects)
        self.prepared: list[PreparedModel] = []
        """Everything asked for, in order."""
        self.leased: list[str] = []
        """Parameters whose model is in use now."""
        self.escalations: list[BaseException] = []
        """Errors after which models were told to need less memory."""
        self.escalates = True
        """What `escalate` answers."""
        self._faults = faults
        self._names = {
            id(parameter.binding): name
            for function in functions
            for name, parameter in function.bindings.items()
        }

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> PreparedModel:
        self._faults.check("models.prepare")
        name = self._names.get(id(binding), str(choice.get("slot_name", "")))
        if name not in self.objects and choice.get("ref") not in self.objects:
            raise ModelResolutionError(
                f"the test gives no model for {name!r} ({choice.get('ref')!r}): "
                f"pass models={{{name!r}: …}}"
            )
        prepared = PreparedModel(parameter=name, choice=dict(choice), annotation=annotation)
        self.prepared.append(prepared)
        return prepared

    @asynccontextmanager
    async def lease(
        self,
        prepared: object,
        *,
        device: str,
        request: ModelRequest = NOBODY,
    ) -> AsyncIterator[object]:
        assert isinstance(prepared, PreparedModel)
        self._faults.check("models.lease")
        self.leased.append(prepared.parameter)
        try:
            ref = str(prepared.choice.get("ref"))
            yield self.objects[ref if ref in self.objects else prepared.parameter]
        finally:
            self.leased.remove(prepared.parameter)

    async def escalate(
        self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
    ) -> bool:
        self._faults.check("models.escalate")
        self.escalations.append(error)
        return self.escalates


class FakePublisher:
    """A `Publisher` that keeps what it is given."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.published: list[dict[str, Any]] = []
        """Finalized revisions: `destination`, `files` by path, `spec` and `manifest`."""
        self.aborted: list[str] = []
        """Destinations of revisions that were dropped."""

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> dict[str, Any]:
        self._faults.check("publisher.open")
        return {"destination": destination, "request_id": request_id, "spec": spec, "files": {}}

    async def put(self, session: Any, path: str, source: Path) -> Mapping[str, Any]:
        self._faults.check("publisher.put")
        content = source.read_bytes()
        session["files"][path] = content
        return {"ref": path, "size_bytes": len(content)}

    async def finalize(self, session: Any, **manifest: Any) -> Mapping[str, Any]:
        self._faults.check("publisher.finalize")
        self.published.append({**session, "manifest": manifest})
        return {"ok": True, "destination": session["destination"]}

    async def abort(self, session: Any) -> None:
        self._faults.check("publisher.abort")
        self.aborted.append(session["destination"])


def fake_ports(
    root: Path,
    functions: Iterable[FunctionSpec] = (),
    models: Mapping[str, Any] | Models | None = None,
    faults: Faults | None = None,
) -> Ports:
    """Return the ports of a test host.

    Args:
        root: A directory for inputs and outputs, such as pytest's `tmp_path`.
        functions: The functions that will run, for `FakeModels`.
        models: Objects by parameter name, or a `Models` port of your own.
        faults: Which methods fail.
    """
    faults = Faults() if faults is None else faults
    if models is None or isinstance(models, Mapping):
        models = FakeModels(models or {}, functions, faults)
    return Ports(
        files=FakeFiles(root, faults),
        events=RecordedEvents(),
        models=models,
        publisher=FakePublisher(faults),
        run=run_blocking,
    )
