"""The `Models` port of every host: declared models become live objects, and stay while they can.

`prepare` has the files here, `lease` the object in memory and on its device, `escalate` makes it
need less. Each room does its own part: sources, loading, residency, the low-VRAM ladder, LoRA.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.context.local import off_loop
from gen_worker.models.choice import LoraChoice, ModelChoice
from gen_worker.models.local_reading import localized
from gen_worker.models.prepared import ModelLease, PreparedModel
from gen_worker.models.shared import variant_of
from gen_worker.models.variants import Part, Variants, plan_variant, repos_of
from gen_worker.ports import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from gen_worker.models.loading import LoadPlan
    from gen_worker.models.low_vram.facts import Machine
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.prepared import Identity
    from gen_worker.models.refs import Ref
    from gen_worker.models.residency import Residency
    from gen_worker.models.shared import Variant
    from gen_worker.models.sources import LocalModel, Sources
    from gen_worker.models.sources.values import Described
    from gen_worker.models.store import LocalModelCache
    from gen_worker.ports import ModelRequest
    from gen_worker.spec import Binding

    Tell = Callable[[str, dict[str, Any]], None]
    Describe = Callable[[ModelChoice | LoraChoice, ModelRequest], Described | None]

__all__ = ["ModelLibrary"]

# How long a tag may be taken to mean what the hub said, before it is asked again.
_FRESH_S = 60.0


class ModelLibrary:
    """Every model of one process. Thread-safe; its coroutines block no event loop."""

    def __init__(
        self,
        sources: Sources,
        residency: Residency,
        *,
        machine: Machine | None = None,
        copies: LocalModelCache | None = None,
        tell: Tell | None = None,
        on_step: Callable[[ModelRequest, int, int], None] | None = None,
        on_tokens: Callable[[ModelRequest, int], None] | None = None,
        describe: Describe | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put the rooms together.

        Args:
            sources: Where files come from.
            residency: Where objects are kept.
            machine: Of the low-VRAM ladder; by default this one.
            copies: Where models that are on NFS are read from, once they were copied.
            tell: Takes events that belong to no request, such as `low_vram_mode_applied`.
            on_step: Told of the steps done and their total while a call's pipeline computes.
            on_tokens: Told how many tokens a call's model generated, at the end of each `generate`.
            describe: Says what a model means to whoever asks for it, where that is known: a job
                describes its models. Any thread; must not block.
            clock: Seconds.
        """
        self.sources = sources
        self.residency = residency
        self._machine = machine
        self._copies = copies
        self._tell = tell
        self._on_step = on_step
        self._on_tokens = on_tokens
        self._describe = describe
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh: dict[Any, tuple[PreparedModel, float]] = {}
        # A prepared model may be deleted anywhere, even where a lock of the store is held, so what
        # kept its files is closed later.
        self._retired: deque[ExitStack] = deque()
        # Apart from `_lock`, which an event loop takes: naming may wait for a model to unload.
        self._naming = threading.Lock()
        self._variants = Variants(residency)
        self._names: dict[str, Identity] = {}
        """Which object each name of the residency stands for."""

    def __repr__(self) -> str:
        return f"<ModelLibrary of {len(self._names)} models>"

    # -- the port ----------------------------------------------------------------------------------

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> PreparedModel:
        """Have the model's files here; see `gen_worker.ports.Models`."""
        chosen = ModelChoice.from_record(choice)
        variant = variant_of(binding, chosen)
        meant = self._meant(chosen, variant, request)
        key = (_key(chosen, annotation, request), variant, meant)
        with self._lock:
            found = self._fresh.get(key)
        if found is not None and self._clock() < found[1]:
            return found[0]
        return await off_loop(self._prepare, key, variant, chosen, annotation, request)

    async def fetch(self, choice: ModelChoice, request: ModelRequest = NOBODY) -> LocalModel:
        """Have a model's files here although nobody said what they are for.

        Raises:
            ModelResolutionError: There is no such model, or it cannot be had here.
        """
        return await off_loop(self._fetch, choice, request)

    def lease(
        self, prepared: object, *, device: str, request: ModelRequest = NOBODY
    ) -> AbstractAsyncContextManager[object]:
        """Give the live object to one call; see `gen_worker.ports.Models`."""
        assert isinstance(prepared, PreparedModel), "the engine passes on what prepare returned"
        return ModelLease(self, prepared, device, request)

    async def escalate(
        self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
    ) -> bool:
        """Take the leased models one step down the ladder; see `gen_worker.ports.Models`."""
        return await off_loop(self._escalate, prepared, error, device, attempt)

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what is known of a caller's model; see `gen_worker.models.HubLookup`."""
        return await self.sources.look_up(ref)

    # -- files -------------------------------------------------------------------------------------

    def _prepare(
        self,
        key: Any,
        variant: Variant | None,
        choice: ModelChoice,
        annotation: Any,
        request: ModelRequest,
    ) -> PreparedModel:
        before = self._forget_stale(key)
        with ExitStack() as stack:
            model = self._hold(choice, request, stack)
            loras = tuple(self._hold(lora, request, stack).path for lora in choice.loras)
            parts = tuple(
                Part(name, repo.choice, self._hold(repo.choice, request, stack), is_shared)
                for repos, is_shared in repos_of(variant)
                for name, repo in repos.items()
            )
            self.residency.know(model.ref, path=model.path, size_bytes=model.size_bytes)
            kept = stack.pop_all()
        prepared = PreparedModel(
            model,
            choice,
            annotation,
            loras=loras,
            parts=parts,
            pipeline_class=variant.pipeline_class_fqn if variant else "",
            is_setup=request.is_setup,
            give_back=partial(self._retired.append, kept),
        )
        if before is not None and before.digests == prepared.digests:
            prepared = before  # it knows how it is loaded
        with self._lock:
            self._fresh[key] = (prepared, self._clock() + _FRESH_S)
        return prepared

    def _fetch(self, choice: ModelChoice, request: ModelRequest) -> LocalModel:
        with ExitStack() as stack:
            model = self._hold(choice, request, stack)
            self.residency.know(model.ref, path=model.path, size_bytes=model.size_bytes)
        return model

    def _meant(
        self, choice: ModelChoice, variant: Variant | None, request: ModelRequest
    ) -> tuple[str, ...]:
        """Return the digests that whoever asks says the model and its companions have."""
        if self._describe is None:
            return ()
        wanted: list[ModelChoice | LoraChoice] = [choice, *choice.loras]
        wanted += [repo.choice for repos, _ in repos_of(variant) for repo in repos.values()]
        described = [self._describe(one, request) for one in wanted]
        return tuple(one.snapshot.digest if one is not None else "" for one in described)

    def _forget_stale(self, key: Any) -> PreparedModel | None:
        """Let go of what was prepared a while ago; return what was for `key`."""
        now = self._clock()
        with self._lock:
            before = self._fresh.get(key)
            stale = [other for other, (_, until) in self._fresh.items() if until <= now]
            for other in stale:
                del self._fresh[other]
        while self._retired:
            self._retired.popleft().close()
        return before[0] if before is not None else None

    def _hold(
        self, choice: ModelChoice | LoraChoice, request: ModelRequest, stack: ExitStack
    ) -> LocalModel:
        """Have one model's files here, on the local disk, until `stack` is closed."""
        described = self._describe(choice, request) if self._describe is not None else None
        held = self.sources.hold(
            choice,
            resolved=described.snapshot if described is not None else None,
            renew=described.renew if described is not None else None,
            token=request.token,
            tell=self._tell,
            request_id=request.request_id,
        )
        model = stack.enter_context(held)
        if self._copies is None or model.provider != "tensorhub":
            return model
        return localized(model, self._copies, request, stack, tell=self._tell)

    # -- objects -----------------------------------------------------------------------------------

    def resident(self, prepared: PreparedModel, device: str) -> AbstractContextManager[Any] | None:
        """Return a lease of an object that is on its device already; None when it is not."""
        name, identity = prepared.names.get(device, ("", None))
        if not name or self._names.get(name) != identity:
            return None
        return self.residency.lease(name, device)

    def bring(
        self, prepared: PreparedModel, device: str, request: ModelRequest
    ) -> AbstractContextManager[Any]:
        """Return a lease of the object, loaded and moved as needed; a path needs none."""
        from gen_worker.models.loading import load
        from gen_worker.models.low_vram import place

        plan = self._plan(prepared, device, request)
        if plan.method == "path":
            return nullcontext(load(plan).object)
        name = self._name(prepared, plan)

        def read() -> Any:
            if prepared.parts:
                return self._variants.build(
                    name,
                    plan.cls,
                    prepared.parts,
                    device=device,
                    token=request.token,
                    tell=self._tell,
                )
            return load(plan, token=request.token, tell=self._tell).object

        def put(value: Any, to: str) -> None:
            place(
                value,
                to,
                model_id=name,
                peak_vram_gb=request.peak_vram_gb,
                companions=self._variants.companions(name),
                tell=self._tell,
                machine=self._machine,
            )

        return self.residency.use(
            name, device, read, put=put, size_bytes=plan.size_bytes, token=request.token
        )

    def overlaid(
        self, prepared: PreparedModel, value: Any, request: ModelRequest
    ) -> AbstractContextManager[Any]:
        """Return a context in which the chosen LoRAs lie over a leased object."""
        from gen_worker.models.lora import attach_overlays

        return attach_overlays(
            value,
            prepared.choice.loras,
            prepared.loras,
            request_id=request.request_id,
            parameter=request.parameter,
        )

    def watched(self, value: Any, request: ModelRequest) -> AbstractContextManager[Any]:
        """Return a context in which a cancel ends the object's work at its next step."""
        if request.token is None:
            return nullcontext()
        from gen_worker.models.loading import watch

        if not request.request_id:
            return watch(value, request.token)
        on_step, on_tokens = self._on_step, self._on_tokens
        return watch(
            value,
            request.token,
            partial(on_step, request) if on_step else None,
            partial(on_tokens, request) if on_tokens else None,
        )

    def _plan(self, prepared: PreparedModel, device: str, request: ModelRequest) -> LoadPlan:
        from gen_worker.models.loading import plan

        known = prepared.plans.get(device)
        if known is not None:
            return known
        if prepared.parts:
            made = plan_variant(prepared.pipeline_class, prepared.parts, device)
        else:
            made = plan(
                prepared.model.path,
                prepared.annotation,
                # The path has the subfolder in it already.
                choice=msgspec.structs.replace(prepared.choice, subfolder=""),
                parameter=request.parameter,
                is_setup=prepared.is_setup,
                device=device,
            )
        # Events name a model as its orchestrator does.
        prepared.plans[device] = msgspec.structs.replace(made, ref=prepared.model.ref)
        return prepared.plans[device]

    def _name(self, prepared: PreparedModel, plan: LoadPlan) -> str:
        """Return what the residency and its reports call the object.

        The first object of a ref bears the ref's own name, and hands it on when the ref means
        another version; one of another type or precision beside it gets a number.
        """
        owned = tuple(part.name for part in prepared.parts if not part.is_shared)
        precisions = tuple(part.dtype for part in plan.components)
        wanted: Identity = (prepared.digests, plan.cls, precisions + owned)
        with self._naming:
            for count in range(1, len(self._names) + 2):
                name = prepared.model.ref if count == 1 else f"{prepared.model.ref}~{count}"
                if self._names.get(name) == wanted or self._is_free(name, wanted):
                    break
            self._names[name] = wanted
            prepared.names[plan.device] = (name, wanted)
        return name

    def _is_free(self, name: str, wanted: Identity) -> bool:
        """Tell whether nothing has this name, or only a version that is over and can leave."""
        from gen_worker.models.residency import ModelInUseError

        present = self._names.get(name)
        if present is None or present[1:] != wanted[1:]:
            return present is None
        try:
            self.residency.unload(name)
        except ModelInUseError:
            return False
        return True

    def _escalate(
        self, prepared: list[object], error: BaseException, device: str, attempt: int
    ) -> bool:
        from gen_worker.models.low_vram import escalate

        leased = [one for one in prepared if isinstance(one, PreparedModel)]
        pipelines: dict[str, Any] = {}
        for one in leased:
            name, _ = one.names.get(device, ("", None))
            pipelines |= {name: self.residency.value(name, device)}
            pipelines |= self._variants.companions(name)
        present = {name: value for name, value in pipelines.items() if value is not None}
        with self.residency.mutex(device):  # nothing else moves onto the GPU meanwhile
            taken = escalate(
                present, error=error, attempt=attempt, tell=self._tell, machine=self._machine
            )
            for name in present:
                self.residency.refresh(name)
        return taken


def _key(choice: ModelChoice, annotation: Any, request: ModelRequest) -> tuple[Any, ...]:
    from gen_worker.models.sources.values import key_of

    return key_of(choice), choice.loras, choice.flavor, id(annotation), request.is_setup
