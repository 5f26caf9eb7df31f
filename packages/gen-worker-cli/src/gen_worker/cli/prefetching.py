"""How `gen-worker prefetch` fetches its models, several at once, and tells about it."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from gen_worker.cli.hub_progress import TransferBar
from gen_worker.cli.sizes import size_text
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.fetching import Job, Plan
    from gen_worker.models.fetch import FetchProgress
    from gen_worker.models.sources import FetchPlan, Sources

__all__ = ["FAILED", "Prefetch"]

FAILED = 3
_PROGRESS = "model.download.progress"


class _Planned(NamedTuple):
    """A job, and what it takes; a WorkerError where that cannot be known."""

    job: Job
    plan: FetchPlan | WorkerError


class Prefetch:
    """Fetches jobs, in threads, and reports them one by one."""

    def __init__(
        self,
        sources: Sources,
        out: BinaryIO | None,
        *,
        max_downloads: int = 2,
        cancel: CancelToken | None = None,
    ) -> None:
        """Choose the form of the report.

        Args:
            sources: Of this machine.
            out: Gets one JSON line per event; None writes sentences to stderr instead.
            max_downloads: Models fetched at the same time.
            cancel: Its cancel ends the downloads.
        """
        self._sources = sources
        self._max_downloads = max_downloads
        self._cancel = cancel
        self._bar = TransferBar("prefetch")
        self._story = _Story(out, self._bar.aside)

    def run(self, found: Plan) -> int:
        """Fetch everything and return the exit code."""
        for note in found.notes:
            self._story.tell("prefetch.note", {"message": note})
        planned = self._planned(found)
        self._story.tell("prefetch.plan", _totals(planned))
        # Those that need no download first, in the order they are declared in.
        settled = [one for one in planned if not _missing_bytes(one)]
        downloads = [one for one in planned if _missing_bytes(one)]
        for one in downloads:
            self._bar.fetched_of(str(one.job), 0, _missing_bytes(one))
        with ExitStack() as held:
            done = [self._fetched(one, held) for one in settled]
            with self._bar.showing() if self._story.is_for_people else nullcontext():
                done += self._together([partial(self._fetched, one, held) for one in downloads])
        failed = done.count(False)
        self._story.tell("prefetch.done", {"fetched": len(done) - failed, "failed": failed})
        return FAILED if failed else 0

    def _planned(self, found: Plan) -> list[_Planned]:
        def planned(job: Job) -> _Planned:
            try:
                return _Planned(job, self._sources.resolve(job.choice, token=self._cancel))
            except WorkerError as error:
                return _Planned(job, error)

        return self._together([partial(planned, job) for job in found.jobs])

    def _together(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """Return what the calls do, made in as many threads as downloads may run."""
        if len(calls) < 2:
            return [call() for call in calls]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self._max_downloads, "prefetch") as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                return [future.result() for future in futures]
            except BaseException:  # an interrupt: what has not begun never does
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetched(self, planned: _Planned, held: ExitStack) -> bool:
        """Have one model here, and keep it from being evicted for the next one."""
        job, plan = planned
        what = {"ref": job.ref, "provider": job.provider}
        self._story.tell("model_fetch.started", what)

        def tell(kind: str, facts: Mapping[str, Any]) -> None:
            if kind.endswith(_PROGRESS):
                self._story.tell(_PROGRESS, {**what, **facts})

        def watch(progress: FetchProgress) -> None:
            self._bar.fetched_of(str(job), progress.bytes_done, progress.bytes_total)

        try:
            if isinstance(plan, WorkerError):
                raise plan
            model = held.enter_context(
                self._sources.hold(job.choice, token=self._cancel, tell=tell, watch=watch)
            )
        except WorkerError as error:
            self._story.tell("prefetch.ref.failed", {**what, "error": str(error)})
            return False
        self._story.tell("model_fetch.completed", {**what, "local_dir": model.path})
        self._story.tell("prefetch.ref.ready", {**what, "local": model.path})
        return True


def _missing_bytes(planned: _Planned) -> int:
    return 0 if isinstance(planned.plan, WorkerError) else planned.plan.missing_bytes


def _totals(planned: list[_Planned]) -> dict[str, Any]:
    """Return how many models there are, and what fetching them takes as far as it is known."""
    totals: dict[str, Any] = {"count": len(planned)}
    plans = [one.plan for one in planned if not isinstance(one.plan, WorkerError)]
    if plans:
        totals["files"] = sum(not file.is_present for plan in plans for file in plan.files)
        totals["bytes"] = sum(plan.missing_bytes for plan in plans)
        totals["present_bytes"] = sum(plan.size_bytes - plan.missing_bytes for plan in plans)
    return totals


class _Story:
    """Tells events in order, whichever thread they come from."""

    def __init__(
        self, out: BinaryIO | None, aside: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self.is_for_people = out is None
        self._out = out
        self._aside = aside
        self._lock = threading.Lock()

    def tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        with self._lock, self._speaking():
            if self._out is not None:
                line = msgspec.json.encode({"kind": kind, **facts}, enc_hook=str)
                self._out.write(line + b"\n")
            elif text := _sentence(kind, facts):
                print(f"gen-worker prefetch: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Keep a bar off the line."""
        with nullcontext() if self._out is not None else self._aside():
            yield


def _sentence(kind: str, facts: Mapping[str, Any]) -> str:
    """Return what a person is told; nothing where another line or the bar says it."""
    match kind:
        case "prefetch.note":
            return str(facts["message"])
        case "prefetch.plan":
            return _plan_sentence(facts)
        case "prefetch.ref.ready":
            return f"{facts['ref']} ({facts['provider']}) is here: {facts['local']}"
        case "prefetch.ref.failed":
            return f"{facts['ref']} ({facts['provider']}) failed: {facts['error']}"
        case "prefetch.done":
            return f"{facts['fetched']} fetched, {facts['failed']} failed"
        case _:
            return ""


def _plan_sentence(facts: Mapping[str, Any]) -> str:
    if not facts["count"]:
        return "nothing to fetch"
    text = f"{facts['count']} to fetch"
    if "bytes" not in facts:
        return text
    here = size_text(facts["present_bytes"])
    return f"{text}: {facts['files']} files, {size_text(facts['bytes'])}; {here} are here already"
