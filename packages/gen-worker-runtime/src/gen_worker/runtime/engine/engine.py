"""The engine: every call of every transport goes through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.runtime.engine.invocation import EngineLimits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Ports
    from gen_worker.runtime.engine.invocation import Invocation, Outcome, Sink
    from gen_worker.spec import FunctionSpec


class RunningCall:
    token: CancelToken
    request_id: str

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Engine:
    functions: Mapping[str, FunctionSpec]

    def __init__(
        self,
        functions: Iterable[FunctionSpec],
        ports: Ports,
        *,
        limits: EngineLimits = EngineLimits(),  # noqa: B008
        devices: Sequence[str] = ("cpu",),
    ) -> None: ...

    def lookup(self, name: str) -> FunctionSpec: ...
    def run(
        self, invocation: Invocation, sink: Sink | None = None, *, token: CancelToken | None = None
    ) -> Outcome: ...
    def submit(
        self, invocation: Invocation, sink: Sink, *, token: CancelToken | None = None
    ) -> RunningCall: ...
    async def call(
        self, invocation: Invocation, *, token: CancelToken | None = None
    ) -> Outcome: ...
    async def setup(self, names: Iterable[str] | None = None) -> None: ...
    def setup_now(self, names: Iterable[str] | None = None) -> None: ...
    async def close(self, grace_s: float = 10.0) -> None: ...
    def close_now(self, grace_s: float = 10.0) -> None: ...
    def interrupt_from_signal(self, frame: Any) -> None: ...
    def statistics(self) -> Any: ...
