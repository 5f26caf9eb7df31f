"""The models of one call: which ones, fetched before it has a slot, leased while it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.events import Emitted
from gen_worker.ports import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Models
    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.runners import Runner
    from gen_worker.spec import ClassSpec, FunctionSpec, ModelParameter

__all__ = [
    "Leases",
    "choose_models",
    "is_callers",
    "read_overrides",
    "request_for",
    "retries_without_memory",
]

_MAX_RETRIES = 2


async def read_overrides(call: RunningCall, runner: Runner, envelope: Any) -> dict[str, Any]:
    """Check a `_models` envelope as a whole; return the caller's choice by parameter name.

    Raises:
        OverrideError: One entry is refused, and with it the call.
        ValidationError: It is malformed.
    """
    # Late: most calls bring no models of their own, and the parser is another package.
    from gen_worker.models.overrides import check_overrides, parse_overrides

    parameters = call.plan.bindings
    overrides = parse_overrides(envelope, parameters)
    models: Any = call.core.ports.models
    if overrides and hasattr(models, "look_up"):
        await runner.port(check_overrides(overrides, parameters, models))
    return dict(overrides)


def is_callers(choice: Mapping[str, Any]) -> bool:
    """Tell whether a model that the host passes on was chosen by the function's caller."""
    return choice.get("source") != "default"


def choose_models(
    parameters: Mapping[str, ModelParameter], payload: Any, overrides: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return what to load for each parameter.

    Raises:
        ValidationError: The payload selects a model that the author did not list.
        OverrideError: The author does not allow the caller's choice.
    """
    return {
        name: parameter.binding.choose(name, payload, overrides.get(name))
        for name, parameter in parameters.items()
    }


def request_for(
    spec: FunctionSpec | ClassSpec,
    token: CancelToken,
    *,
    request_id: str = "",
    is_setup: bool = False,
) -> ModelRequest:
    """Return on whose behalf the models of a function, or of a class's `setup`, are asked for."""
    peak_gb = getattr(spec.resources, "peak_vram_per_request_gb", None)  # the older kind has none
    return ModelRequest(
        function=spec.name,
        request_id=request_id,
        token=token,
        is_setup=is_setup,
        peak_vram_gb=peak_gb,
    )


class Leases:
    """Models a call, or a class's `setup`, may use: prepared, then leased, then given back."""

    __slots__ = ("_device", "_entered", "_models", "_request", "_runner", "prepared")

    def __init__(self, models: Models, runner: Runner, request: ModelRequest) -> None:
        self._models = models
        self._request = request
        self._runner = runner
        self._entered: list[Any] = []
        self._device = "cpu"
        self.prepared: dict[str, object] = {}
        """Tokens of the `Models` port by parameter name."""

    async def prepare(
        self, parameters: Mapping[str, ModelParameter], choices: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Resolve and fetch; needs no slot.

        Raises:
            ModelResolutionError: There is no such model, or it cannot be had here.
        """
        for name, parameter in parameters.items():
            request = self._request._replace(parameter=name)
            self.prepared[name] = await self._runner.port(
                self._models.prepare(
                    parameter.binding, choices[name], parameter.annotation, request
                )
            )

    async def open(self, device: str) -> dict[str, Any]:
        """Load what is prepared; needs a slot of `device`."""
        objects: dict[str, Any] = {}
        self._device = device
        for name, prepared in self.prepared.items():
            request = self._request._replace(parameter=name)
            lease = self._models.lease(prepared, device=device, request=request)
            objects[name] = await self._runner.port(_enter(lease))
            self._entered.append(lease)
        return objects

    async def close(self) -> None:
        """Give everything back, last first; one that fails does not keep the others."""
        errors: list[Exception] = []
        while self._entered:
            lease = self._entered.pop()
            try:
                await self._runner.port(_leave(lease))
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def escalate(self, error: BaseException, attempt: int) -> bool:
        """Make the models need less memory; False when nothing is left to try."""
        prepared = list(self.prepared.values())
        return bool(prepared) and await self._runner.port(
            self._models.escalate(prepared, error, device=self._device, attempt=attempt)
        )


async def _enter(lease: Any) -> Any:
    return await lease.__aenter__()


async def _leave(lease: Any) -> None:
    await lease.__aexit__(None, None, None)


async def retries_without_memory(
    calls: list[RunningCall], leases: Leases, error: BaseException, attempt: int
) -> bool:
    """After out of memory: take the models one rung down and tell; False when it is final."""
    if attempt > _MAX_RETRIES or any(call.plan.is_generator for call in calls):
        return False
    try:
        if not await leases.escalate(error, attempt):
            return False
    finally:
        # The traceback keeps the failed attempt's tensors alive.
        error.__traceback__ = error.__context__ = error.__cause__ = None
    for call in calls:
        core = call.core
        core.ports.events.emit(
            Emitted(
                request_id=call.request_id,
                type="inference.oom_retry",
                payload={"function_name": call.plan.spec.name, "attempt": attempt},
                at=core.clock.time(),
            )
        )
    return True
