"""Stop a pipeline or a `generate` at its next step, and tell how far it is.

The libraries report each step in one place: `DiffusionPipeline.progress_bar`, which every pipeline
goes through, and the stopping criteria of `GenerationMixin.generate`. Both are extended once, for
the whole process, and ask who watches; without a watcher they are what they were. So objects keep
their type, an author's own callback stays untouched, and a pipeline that the author made with
`from_pipe` is watched as well.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken

__all__ = ["Watch", "install_hooks", "watch"]


class Watch:
    """Who wants to know about the steps of one call."""

    __slots__ = ("_objects", "_parts", "generated", "progress", "token")

    def __init__(
        self,
        token: CancelToken,
        progress: Callable[[int, int], None] | None,
        objects: tuple[Any, ...],
        generated: Callable[[int], None] | None = None,
    ) -> None:
        self.token = token
        self.progress = progress
        self.generated = generated
        self._objects = objects
        self._parts: tuple[Any, ...] | None = None

    def concerns(self, value: Any) -> bool:
        """Tell whether `value` is one of the objects, or a component of one."""
        if any(value is item for item in self._objects):
            return True
        if self._parts is None:  # asked for only here: diffusers takes its time to list them
            self._parts = tuple(part for item in self._objects for part in _components_of(item))
        return any(value is part for part in self._parts)

    def step(self, done: int, total: int) -> None:
        """Report a step, unless the call was canceled.

        Raises:
            CanceledError: It was.
        """
        self.token.raise_if_canceled()
        if self.progress is not None and total > 0:
            self.progress(min(done, total), total)


_current: ContextVar[Watch | None] = ContextVar("gen_worker_watch", default=None)
_active: list[Watch] = []
_lock = threading.Lock()


@contextlib.contextmanager
def watch(
    objects: Any,
    token: CancelToken,
    progress: Callable[[int, int], None] | None = None,
    generated: Callable[[int], None] | None = None,
) -> Iterator[Watch]:
    """Watch the calls of pipelines and models for the length of a block.

    A step belongs to the watch of the context it runs in, which threads and tasks that were given a
    copy of the context share. In another thread (`generate` in one of the author's own) it belongs
    to the watch of that very object, if there is one and no other.

    Args:
        objects: A pipeline or model, or a sequence of them.
        token: Once canceled, the next step raises `CanceledError` inside the author's call.
        progress: Called with the steps done and their total, in the thread of the call.
        generated: Called with the number of tokens at the end of each `generate`, likewise: of each
            text as many as of the longest; of one that failed, those of one text.
    """
    items = tuple(objects) if isinstance(objects, (list, tuple)) else (objects,)
    for item in items:
        install_hooks(item)
    one = Watch(token, progress, items, generated)
    with _lock:
        _active.append(one)
    reset = _current.set(one)
    try:
        yield one
    finally:
        with contextlib.suppress(ValueError):  # left in another context than entered
            _current.reset(reset)
        with _lock:
            _active.remove(one)


def _components_of(item: Any) -> list[Any]:
    try:
        components = getattr(item, "components", None)
    except Exception:  # a property of diffusers that checks the whole pipeline
        return []
    found = components.values() if isinstance(components, dict) else ()
    return [part for part in found if hasattr(part, "parameters")]


def _watch_of(value: Any) -> Watch | None:
    current = _current.get()
    if current is not None:
        return current
    found = [one for one in list(_active) if one.concerns(value)]
    return found[0] if len(found) == 1 else None


_installed: set[str] = set()
_known_types: weakref.WeakSet[type] = weakref.WeakSet()


def install_hooks(value: Any) -> None:
    """Extend the libraries that this object comes from; cheap when that was done before."""
    if type(value) in _known_types:
        return
    _known_types.add(type(value))
    for base in type(value).__mro__:
        if base.__name__ == "DiffusionPipeline" and "diffusers" in sys.modules:
            _install("diffusers", base, "progress_bar", _watched_progress_bar)
        elif base.__name__ == "GenerationMixin" and "transformers" in sys.modules:
            _install("transformers", base, "generate", _watched_generate)


def _install(name: str, cls: Any, method: str, make: Callable[[Any], Any]) -> None:
    with _lock:
        if name not in _installed:
            setattr(cls, method, make(cls.__dict__[method]))
            _installed.add(name)


def _watched_progress_bar(original: Any) -> Any:
    import functools

    @functools.wraps(original)
    def progress_bar(self: Any, iterable: Any = None, total: Any = None) -> Any:
        bar = original(self, iterable, total)
        one = _watch_of(self)
        if one is None:
            return bar
        one.token.raise_if_canceled()
        return _Bar(bar, one)

    return progress_bar


class _Bar:
    """A progress bar of diffusers that asks its watch at each step."""

    def __init__(self, bar: Any, one: Watch) -> None:
        self._bar = bar
        self._watch = one
        self._done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def __enter__(self) -> _Bar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._bar.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        for item in self._bar:
            yield item
            self._count(1)

    def update(self, n: float | None = 1) -> Any:
        result = self._bar.update(n)
        self._count(int(n or 0))
        return result

    def _count(self, n: int) -> None:
        self._done += n
        self._watch.step(self._done, int(self._bar.total or 0))


def _watched_generate(original: Any) -> Any:
    import functools

    @functools.wraps(original)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        one = _watch_of(self)
        if one is None or _inside.get():
            return original(self, *args, **kwargs)
        one.token.raise_if_canceled()
        steps, texts = [0], 1
        kwargs["stopping_criteria"] = _criteria(one, self, kwargs, steps)
        reset = _inside.set(True)
        try:
            made = original(self, *args, **kwargs)
            texts = _texts_in(made)
            return made
        finally:
            _inside.reset(reset)
            if one.generated is not None and steps[0]:
                one.generated(steps[0] * texts)

    return generate


def _texts_in(made: Any) -> int:
    """Return how many texts there are; 1 in what only a `custom_generate` knows how to read."""
    shape: Any = getattr(getattr(made, "sequences", made), "shape", ())
    return int(shape[0]) if len(shape) == 2 else 1


_inside: ContextVar[bool] = ContextVar("gen_worker_inside_generate", default=False)
"""An assistant's `generate` inside another's: the outer one is asked at each token anyway."""


def _criteria(one: Watch, model: Any, kwargs: dict[str, Any], steps: list[int]) -> Any:
    """Return the author's stopping criteria and one more, which never stops but may raise.

    It counts in `steps[0]` the tokens of the longest text.
    """
    transformers: Any = sys.modules["transformers"]
    torch: Any = sys.modules["torch"]
    total = _longest(model, kwargs)
    first: list[int] = []

    class Step(transformers.StoppingCriteria):  # type: ignore[misc,unused-ignore]
        def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
            length = int(input_ids.shape[-1])
            first.extend([] if first else [length - 1])
            steps[0] = length - first[0]
            one.step(steps[0], total)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    return transformers.StoppingCriteriaList([*(kwargs.get("stopping_criteria") or ()), Step()])


def _longest(model: Any, kwargs: dict[str, Any]) -> int:
    """Return how many tokens are generated at most; 0 when that is not said."""
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    wanted = kwargs.get("max_new_tokens") or getattr(config, "max_new_tokens", None)
    return int(wanted or 0)
