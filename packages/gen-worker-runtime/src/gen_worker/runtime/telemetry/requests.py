"""The life of each request in events: all of them for one that takes its time, one for the rest."""

from __future__ import annotations

import threading
from time import gmtime, strftime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.diagnostics import sanitize
from gen_worker.events import Failed, Result
from gen_worker.runtime.telemetry.job_facts import NO_FACTS
from gen_worker.runtime.telemetry.payloads import (
    ComputeMoment,
    Duration,
    InferenceCompleted,
    InferenceFailed,
    InferenceStarted,
    JobMetrics,
    OfFunction,
    RequestCompleted,
    RequestFailed,
    RequestReceived,
    RequestStarted,
    Stuck,
    Tokens,
)
from gen_worker.runtime.telemetry.tracks import FunctionNotes, Step, Track
from gen_worker.runtime.telemetry.watch import Watch

if TYPE_CHECKING:
    from gen_worker.events import Metric, Started
    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.engine.deadlines import Timers
    from gen_worker.runtime.telemetry.memory import MemoryGauge
    from gen_worker.runtime.telemetry.payloads import ModelMetrics, Payload
    from gen_worker.runtime.telemetry.sending import Sender
    from gen_worker.runtime.telemetry.tracks import ObservedJob
    from gen_worker.runtime.wire import Observation

__all__ = ["Requests", "WarnAfter"]

_STATES = ("cold_remote", "warm_disk", "hot_vram")
"""Of models, the worst first."""


class WarnAfter(NamedTuple):
    """Seconds after which a step counts as stuck; 0 never."""

    model_resolve_s: float = 30.0
    model_load_s: float = 60.0
    inference_s: float = 60.0

    def of(self, step: str) -> float:
        if step == "model_resolve":
            return self.model_resolve_s
        return self.model_load_s if step == "model_load" else self.inference_s


class Requests:
    """Every request under way. On the loop's thread, unless a method says otherwise."""

    def __init__(
        self,
        sender: Sender,
        clock: Clock,
        timers: Timers,
        *,
        tells_all: bool = False,
        warn_after: WarnAfter | None = None,
        gauge: MemoryGauge | None = None,
    ) -> None:
        """Prepare to report.

        Args:
            sender: Takes the events.
            clock: What requests and their steps are measured with.
            timers: On that clock.
            tells_all: Whether requests that end at once are told of like all others.
            warn_after: When a step counts as stuck.
            gauge: Measures the memory of requests.
        """
        self._sender = sender
        self._now = clock.now
        self._unix_time = clock.time
        self._tells_all = tells_all
        self._warn_after = warn_after or WarnAfter()
        self._gauge = gauge
        self._tracks: dict[str, Track] = {}
        self._notes: dict[str, FunctionNotes] = {}
        self._watch: Watch[Track] = Watch(clock, timers, announce=self._announce, look=self._look)
        self._lock = threading.Lock()

    def find(self, request_id: str) -> Track | None:
        """Return a request that is under way. Any thread."""
        return self._tracks.get(request_id)

    # Its beginning.

    def began(self, job: ObservedJob) -> Track:
        """Take note of a request that was admitted."""
        spec, request_id = job.served.spec, job.request.request_id
        notes = self._notes.get(spec.name)
        if notes is None:
            notes = self._notes[spec.name] = FunctionNotes(spec)
        track = Track(job, notes, self._now(), self._unix_time())
        self._tracks[request_id] = track
        if self._tells_all:
            self._announce(track)
            self._watch.add_slow(request_id, track)
        else:
            self._watch.add(request_id, track)
        return track

    def _announce(self, track: Track) -> None:
        """Tell what has happened so far; from now on everything is told as it happens."""
        request, spec = track.job.request, track.job.served.spec
        at, name, refs = track.began_unix, track.function, sorted(_refs_of(track))
        batching = spec.batching
        received = RequestReceived(
            timestamp=at,
            function_name=name,
            job_id=request.job_id,
            required_flavor_refs_count=len(refs),
            input_bytes=len(request.payload),
        )
        started = RequestStarted(
            timestamp=at,
            function_name=name,
            required_flavor_refs=refs,
            runtime_batching_config={} if batching is None else msgspec.structs.asdict(batching),
            execution_hints=sanitize(request.hints),
        )
        with self._lock:
            track.is_told = True
            earlier, track.pending = track.pending or (), None
            self._send(track, "request.received", received)
            self._send(track, "request.started", started)
            self._send(track, "metrics.compute.started", ComputeMoment(timestamp=at, at=_rfc(at)))
            for event, payload in earlier:
                self._send(track, event, payload)
            self._notice_call(track)

    # Its steps, in any thread.

    def called(self, started: Started) -> Track | None:
        """Take note that a function is called just now."""
        track = self._tracks.get(started.request_id)
        if track is not None:
            track.called_unix, track.called_at = started.at, self._now()
            if track.notes.needs_gpu and (call := getattr(track.job, "call", None)) is not None:
                self.occupy(track, call.device or "")
            if track.is_told:
                with self._lock:
                    self._notice_call(track)
        return track

    def measured(self, metric: Metric) -> None:
        """Take note of a number of a request."""
        track = self._tracks.get(metric.request_id)
        if track is not None:
            track.note_measure(metric.name, metric.value)

    def _notice_call(self, track: Track) -> None:
        """Tell that the function was called, once."""
        if track.called_at is None or track.is_called_told:
            return
        track.is_called_told = True
        facts = {
            "function_name": track.function,
            "output_mode": track.job.served.spec.output_mode,
            "phase": track.phase,
        }
        track.step, track.is_warned = Step(track.phase, facts, track.called_at), False
        started = InferenceStarted(timestamp=track.called_unix, **facts)
        self._send(track, f"{track.event}.started", started)

    def begin(self, track: Track, step: str, started: Payload) -> None:
        """Take note that a model is prepared or loaded.

        Args:
            track: The request.
            step: `model_resolve` or `model_load`.
            started: Payload of its first event.
        """
        names = started.__struct_fields__
        facts = {name: getattr(started, name) for name in names if name != "timestamp"}
        track.step, track.is_warned = Step(step, facts, self._now()), False
        self.say(track, f"request.{step}.started", started)

    def end(self, track: Track, step: str, how: str, payload: Payload) -> None:
        """Take note of the end of such a step; `how` is `completed` or `failed`."""
        track.step = None
        self.say(track, f"request.{step}.{how}", payload)

    def say(self, track: Track, event: str, payload: Payload) -> None:
        """Tell of something now, or once the request has taken its time."""
        with self._lock:
            if track.is_told:
                self._send(track, event, payload)
            elif track.pending is None:
                track.pending = [(event, payload)]
            else:
                track.pending.append((event, payload))

    def occupy(self, track: Track, device: str) -> None:
        """Take note that a request has a device for itself now."""
        if self._gauge is not None:
            self._gauge.occupy(track.job.memory, device)

    def unix_time(self) -> float:
        return self._unix_time()

    # While it runs.

    def _look(self, track: Track) -> None:
        if self._gauge is not None:
            self._gauge.note(track.job.memory)
        step = track.step
        if step is None or track.is_warned:
            return
        warn_after_s, elapsed_s = self._warn_after.of(step.name), self._now() - step.since
        if not 0 < warn_after_s <= elapsed_s + 1e-6:
            return
        track.is_warned = True
        if step.since == track.called_at and track.job.call.phase != "handler":
            return  # the function has returned, and its output is being stored
        stuck = Stuck(
            timestamp=self._unix_time(),
            **{**step.facts, "phase": step.name},
            warn_after_s=warn_after_s,
            elapsed_ms=round(elapsed_s * 1000),
        )
        self.say(track, f"request.{step.name}.stuck", stuck)

    # Its end.

    def ended(
        self, job: ObservedJob, outcome: Result | Failed, observation: Observation
    ) -> Track | None:
        """Take note of its end; its result is on its way."""
        request_id = job.request.request_id
        track = self._tracks.pop(request_id, None)
        if track is None or track.job is not job:
            return None
        self._watch.discard(request_id)
        if track.is_told:
            self._tell_end(track, outcome, observation)
        elif track.has_costs or (track.notes.facts and track.called_at is not None):
            self._send(track, "metrics.job", self._metrics(track, outcome, observation))
        return track

    def _tell_end(self, track: Track, outcome: Result | Failed, observation: Observation) -> None:
        metrics = self._metrics(track, outcome, observation)
        name, at = track.function, metrics.timestamp
        self._tell_call_end(track, outcome)
        self._send(track, "metrics.compute.completed", ComputeMoment(timestamp=at, at=_rfc(at)))
        for event, ms in (
            ("fetch", None if track.fetch_s is None else track.fetch_s * 1000),
            ("gpu_load", metrics.gpu_load_ms),
            ("inference", metrics.inference_ms),
        ):
            if ms is not None:
                self._send(track, f"metrics.{event}", Duration(timestamp=at, ms=round(ms)))
        if (tokens := track.measure("output_tokens")) is not None:
            self._send(track, "metrics.tokens", Tokens(timestamp=at, output_tokens=tokens))
        self._send(track, "metrics.job", metrics)
        if observation.status == "succeeded":
            total_ms = round((at - track.began_unix) * 1000)
            completed = RequestCompleted(timestamp=at, function_name=name, duration_ms=total_ms)
            self._send(track, "request.completed", completed)
        elif observation.error_type == "canceled" and track.phase != "inference":
            self._send(track, "request.cancelled", OfFunction(timestamp=at, function_name=name))
        else:
            self._send(track, "request.failed", _failed(outcome, observation, name, at))

    def _tell_call_end(self, track: Track, outcome: Result | Failed) -> None:
        """Tell how the function ended, unless it was never called."""
        if track.called_at is None:
            return
        timings = outcome.timings
        at = min(track.called_unix + timings.compute_ms / 1000, self._unix_time())
        name, duration_ms = track.function, round(timings.compute_ms)
        if isinstance(outcome, Result) or track.job.call.phase == "output":
            ended: Payload = InferenceCompleted(
                timestamp=at,
                function_name=name,
                output_mode=track.job.served.spec.output_mode,
                phase=track.phase,
                duration_ms=duration_ms,
            )
            self._send(track, f"{track.event}.completed", ended)
            return
        failure = outcome.failure
        ended = InferenceFailed(
            timestamp=at,
            function_name=name,
            phase=track.phase,
            error_type=failure.exception or failure.error_type,
            duration_ms=duration_ms,
        )
        self._send(track, f"{track.event}.failed", ended)

    def _metrics(
        self, track: Track, outcome: Result | Failed, observation: Observation
    ) -> JobMetrics:
        """Return what the request cost."""
        timings, notes, models = outcome.timings, track.notes, track.models
        compute_ms = timings.compute_ms
        inference_ms = round(compute_ms) if compute_ms > 0 else None
        facts = NO_FACTS if notes.facts is None else notes.facts.of(track.job.request.payload)
        steps, guidance, width, height = facts
        return JobMetrics(
            timestamp=self._unix_time(),
            schema_version=1,
            function_name=notes.name,
            cache_state=_worst(models) if models else "",
            models=tuple(models.values()) if models else (),
            pipeline_init_ms=track.loaded_ms,
            gpu_load_ms=None if track.load_s is None else round(track.load_s * 1000),
            warmup_ms=track.measure("warmup_ms"),
            inference_ms=inference_ms,
            steps=steps,
            iters_per_s=round(steps / compute_ms * 1000, 3) if steps and compute_ms else None,
            width=width,
            height=height,
            guidance=guidance,
            png_encode_ms=track.measure("image_encode_ms"),
            upload_ms=None if track.upload_s is None else round(track.upload_s * 1000),
            peak_vram_bytes=observation.peak_vram_bytes or None,
            peak_ram_bytes=observation.peak_memory_bytes or None,
        )

    def _send(self, track: Track, event: str, payload: Payload) -> None:
        self._sender.send(event, payload, track.job.request.request_id)


def _failed(
    outcome: Result | Failed, observation: Observation, name: str, at: float
) -> RequestFailed:
    """Return what is told of a failure; of one that only its answer shows, what that says."""
    failure = outcome.failure if isinstance(outcome, Failed) else None
    return RequestFailed(
        timestamp=at,
        function_name=name,
        error_type=observation.error_type,
        retryable=failure is not None and failure.retryable,
        safe_message=failure.message if failure is not None else "",
    )


def _refs_of(track: Track) -> set[str]:
    return {model.ref for model in track.job.request.models.values() if model.ref}


def _worst(models: dict[str, ModelMetrics]) -> str:
    states = {model.cache_state for model in models.values()}
    return next((state for state in _STATES if state in states), "")


def _rfc(unix_time: float) -> str:
    """Return a moment as RFC 3339 writes it, in UTC."""
    seconds, ms = divmod(int(unix_time * 1000), 1000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{ms:03d}Z"
