"""Class endpoints: `inference`, `training`, `dataset`, `conversion` and `batched_inference`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from gen_worker.endpoint.class_definition import define_class
from gen_worker.endpoint.class_options import ClassOptions
from gen_worker.endpoint.methods import BatchedMethodDecorator, invocable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.endpoint.cases import Case
    from gen_worker.endpoint.methods import MethodDecorator, StageDecorator
    from gen_worker.resources import Resources
    from gen_worker.spec import Binding, EndpointKind

__all__ = [
    "BatchedDecorator",
    "ClassDecorator",
    "batched_inference",
    "conversion",
    "dataset",
    "inference",
    "training",
]

C = TypeVar("C", bound=type)


class ClassDecorator:
    """Makes a class an endpoint of one kind; its `.function` and `.stage` mark methods."""

    function: MethodDecorator = invocable
    stage: StageDecorator = invocable.stage

    def __init__(self, kind: EndpointKind) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<class decorator {self.kind}>"

    @overload
    def __call__(self, cls: C) -> C: ...
    @overload
    def __call__(
        self,
        cls: None = None,
        *,
        label: str | None = None,
        description: str | None = None,
        resources: Resources | None = None,
        models: Mapping[str, Binding] | None = None,
        allowed_shapes: Sequence[Sequence[int]] | None = None,
        runtime: Literal["sglang", "vllm"] | None = None,
        sub_kind: str | None = None,
        batch_window_ms: float | None = None,
        max_batch: int | None = None,
        prefer_distilled: bool = False,
        calibration: Mapping[str, str] | str | None = None,
        parametrize: Sequence[Case] | None = None,
    ) -> Callable[[C], C]: ...
    def __call__(
        self,
        cls: Any = None,
        *,
        label: str | None = None,
        description: str | None = None,
        resources: Resources | None = None,
        models: Mapping[str, Binding] | None = None,
        allowed_shapes: Sequence[Sequence[int]] | None = None,
        runtime: str | None = None,
        sub_kind: str | None = None,
        batch_window_ms: float | None = None,
        max_batch: int | None = None,
        prefer_distilled: bool = False,
        calibration: Mapping[str, str] | str | None = None,
        parametrize: Sequence[Case] | None = None,
    ) -> Any:
        """Make a class an endpoint: set up once, then called through its marked methods.

        Works bare and called, and returns the class itself. The worker makes one instance without
        arguments, calls `setup` with the fixed models, then `warmup`, both optional, before the
        first request, and `shutdown` once at the end.

        Args:
            cls: The class, when used bare.
            label: Short title for people, for every function that has none of its own.
            description: What it does, for people, likewise.
            resources: The hardware its functions need.
            models: Bindings by name: fixed ones go to `setup`, those chosen per call to the method.
            allowed_shapes: Shapes its functions are prepared for, such as `[(1024, 1024)]`.
            runtime: Engine the class runs on; its calls then share one event loop.
            sub_kind: Finer kind, such as `format-conversion`.
            batch_window_ms: Milliseconds to collect calls for one batch; needs `max_batch`.
            max_batch: Most calls in one batch; the method then receives lists.
            prefer_distilled: Whether the platform should pick a distilled model where one exists.
            calibration: `required`, `beneficial` or `unsupported` per quantization scheme.
            parametrize: Rows that each make a function of the one marked method.

        Raises:
            DefinitionError: The class cannot be an endpoint; every reason is listed.
        """
        options = ClassOptions(
            label=label,
            description=description,
            resources=resources,
            models=models,
            allowed_shapes=allowed_shapes,
            runtime=runtime,
            sub_kind=sub_kind,
            batch_window_ms=batch_window_ms,
            max_batch=max_batch,
            prefer_distilled=prefer_distilled,
            calibration=calibration,
            parametrize=parametrize,
        )
        if cls is not None:
            return define_class(cls, self.kind, options, sys._getframe(1))
        return lambda decorated: define_class(decorated, self.kind, options, sys._getframe(1))


class BatchedDecorator:
    """Makes a class an endpoint whose calls share one engine of the author's."""

    function = BatchedMethodDecorator()

    def __repr__(self) -> str:
        return "<class decorator batched_inference>"

    @overload
    def __call__(self, cls: C) -> C: ...
    @overload
    def __call__(
        self,
        cls: None = None,
        *,
        label: str | None = None,
        description: str | None = None,
        resources: Resources | None = None,
        models: Mapping[str, Binding] | None = None,
    ) -> Callable[[C], C]: ...
    def __call__(
        self,
        cls: Any = None,
        *,
        label: str | None = None,
        description: str | None = None,
        resources: Resources | None = None,
        models: Mapping[str, Binding] | None = None,
    ) -> Any:
        """Make a class an endpoint whose methods are async generators on one event loop.

        The options are those of `inference`.

        Raises:
            DefinitionError: The class cannot be an endpoint; every reason is listed.
        """
        options = ClassOptions(
            label=label,
            description=description,
            resources=resources,
            models=models,
            is_batched_class=True,
        )
        if cls is not None:
            return define_class(cls, "inference", options, sys._getframe(1))
        return lambda decorated: define_class(decorated, "inference", options, sys._getframe(1))


inference = ClassDecorator("inference")
training = ClassDecorator("training")
dataset = ClassDecorator("dataset")
conversion = ClassDecorator("conversion")
batched_inference = BatchedDecorator()
