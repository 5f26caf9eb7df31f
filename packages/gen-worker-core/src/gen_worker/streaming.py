"""Streamed text: the typed signals of a stream, and token deltas from a transformers model."""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

__all__ = [
    "Done",
    "Error",
    "IncrementalTokenDelta",
    "TokenStreamSignal",
    "iter_transformers_text_deltas",
]


class IncrementalTokenDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of text; its spaces are kept as they are."""

    text: str = ""
    item_id: str | None = None
    """Which of several texts in one stream it belongs to."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Ends the stream; leaving the generator does the same."""


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Ends the stream as failed for good."""

    message: str = ""


TokenStreamSignal = IncrementalTokenDelta | Done | Error

_LONGEST_POLL_S = 0.05
"""How long a cancel may go unseen while the model computes; a wake-up costs some microseconds."""


def iter_transformers_text_deltas(
    *,
    model: Any,
    tokenizer: Any,
    generation_kwargs: Mapping[str, Any],
    cancel_checker: Callable[[], bool] | None = None,
    skip_prompt: bool = True,
    timeout: float | None = 0.5,
    join_timeout: float = 2.0,
    streamer_cls: Callable[..., Any] | None = None,
    decode_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Yield the text that `model.generate` produces, piece by piece; no piece is empty.

    Generation runs in a thread of its own, which ends at its next token once the iteration is over
    for any reason: done, canceled, failed, or left early by its consumer. A slow first token is
    waited for, however long it takes.

    Args:
        model: Has `generate`.
        tokenizer: Decodes the tokens.
        generation_kwargs: For `generate`; `streamer` is set here, `stopping_criteria` is extended.
        cancel_checker: True ends the iteration, usually `ctx.is_canceled`. Asked before each piece,
            at each token, and at least every 50 ms.
        skip_prompt: Leave the prompt out of the text.
        timeout: Upper bound in seconds for one look at the streamer; never an error.
        join_timeout: Seconds to wait for the thread at the end. One that is still inside a long
            forward pass then goes on to its next token by itself.
        streamer_cls: Replaces `transformers.TextIteratorStreamer`; its iteration raises
            `queue.Empty` when nothing came within `timeout`.
        decode_kwargs: For the streamer, such as `{"skip_special_tokens": True}`.

    Raises:
        ValueError: `model`, `tokenizer` or `generation_kwargs` is None.
        RuntimeError: transformers is not installed and no `streamer_cls` was given.
        BaseException: Whatever `generate` raised, after the text it had produced.
    """
    # Checked here and not in the generator below, so that a wrong call fails where it is made.
    required = {"model": model, "tokenizer": tokenizer, "generation_kwargs": generation_kwargs}
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, not None")
    streamer = (streamer_cls or _default_streamer())(
        tokenizer,
        skip_prompt=skip_prompt,
        timeout=_LONGEST_POLL_S if timeout is None else min(timeout, _LONGEST_POLL_S),
        **(decode_kwargs or {}),
    )
    generation = _Generation(model, streamer, dict(generation_kwargs), cancel_checker)
    return generation.deltas(join_timeout)


def _default_streamer() -> Callable[..., Any]:
    try:
        from transformers import TextIteratorStreamer  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise RuntimeError(
            'iter_transformers_text_deltas needs transformers: install "gen-worker[torch]"'
        ) from error
    streamer: Callable[..., Any] = TextIteratorStreamer
    return streamer


class _Generation:
    """One `model.generate` in its thread."""

    def __init__(
        self,
        model: Any,
        streamer: Any,
        options: dict[str, Any],
        cancel_checker: Callable[[], bool] | None,
    ) -> None:
        self._model = model
        self._streamer = streamer
        self._options = options
        self._cancel_checker = cancel_checker
        self._is_over = False
        self._error: BaseException | None = None

    def deltas(self, join_timeout_s: float) -> Iterator[str]:
        thread = threading.Thread(
            target=self._generate,
            args=(_current_cuda_device(),),
            name="transformers-generate",
            daemon=True,
        )
        thread.start()
        try:
            has_ended = yield from self._pieces(thread)
        finally:
            self._is_over = True
            thread.join(join_timeout_s)
        if has_ended and self._error is not None:
            raise self._error

    def _pieces(self, thread: threading.Thread) -> Generator[str, None, bool]:
        """Yield pieces; return whether generation ended by itself rather than by a cancel."""
        while not self._should_stop():
            was_alive = thread.is_alive()
            try:
                # A new iterator each time: a timeout has ended one that is a generator.
                for piece in self._streamer:
                    if self._should_stop():
                        return False
                    if piece:
                        yield piece
                return True
            except (queue.Empty, TimeoutError):
                if not was_alive:  # it died without closing the streamer, and nothing is left
                    return True
        return False

    def _should_stop(self, *_tokens_and_scores: Any, **_options: Any) -> bool:
        """Also called as a stopping criterion of `generate`, in its thread, at each token."""
        return self._is_over or (self._cancel_checker is not None and self._cancel_checker())

    def _generate(self, cuda_device: int | None) -> None:
        try:
            if cuda_device is not None:
                sys.modules["torch"].cuda.set_device(cuda_device)
            criteria = [*(self._options.pop("stopping_criteria", None) or ()), self._should_stop]
            self._options["stopping_criteria"] = _criteria_list(criteria)
            self._model.generate(**{**self._options, "streamer": self._streamer})
        except BaseException as error:
            self._error = error
            self._close_streamer()

    def _close_streamer(self) -> None:
        """Wake the consumer now; one whose streamer cannot be closed notices at its next look."""
        try:
            self._streamer.end()
        except Exception:
            return


def _criteria_list(criteria: list[Any]) -> Any:
    transformers = sys.modules.get("transformers")
    wrap = getattr(transformers, "StoppingCriteriaList", None)
    return criteria if wrap is None else wrap(criteria)


def _current_cuda_device() -> int | None:
    """Return the caller's device, because a new thread begins at device 0; None without CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    device: int = cuda.current_device()
    return device
