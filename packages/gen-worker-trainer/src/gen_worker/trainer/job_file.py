"""The job spec: one JSON object that says what to train, on what, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.job import TrainingJobSpec
from gen_worker.trainer.job_options import EarlyStop, KeepBest, NanPolicy, ProfileWindow

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

__all__ = [
    "API_VERSION",
    "DatasetSpec",
    "Destination",
    "InputRefs",
    "JobFile",
    "SampleRequest",
    "UploadScope",
    "UploadUrls",
    "load_job_file",
    "parse_job",
]

API_VERSION = "v1"


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where batches come from, and in which order."""

    parquet_paths: tuple[str, ...] = ()
    folder: str = ""
    """Of images with captions; used when there are no Parquet files."""
    repeats: dict[str, int] = {}
    """How often the images of each of its subfolders come in an epoch; once without an entry."""
    batch_size: int = 32
    """Rows."""
    readahead: int = 2
    """Batches that are read before they are asked for."""
    columns: tuple[str, ...] = ()
    """Empty means all."""
    epochs: int = 1
    """0 goes on until `max_steps`."""
    shuffle: bool = False
    shuffle_seed: int = 0
    shuffle_buffer_rows: int = 10_000
    """Rows among which the next one is drawn."""
    drop_last: bool = False
    """Whether a last batch that is short is left out."""
    rebatch: bool = False
    """Whether short pieces are joined to exactly `batch_size` rows."""
    shard_index: int = 0
    shard_count: int = 1
    resume: Literal["skip", "restart"] = "skip"
    """Whether a resumed run goes on in the data where it was, or begins anew."""

    def __post_init__(self) -> None:
        """Refuse what no feed could do; every mistake is named."""
        least = {"batch_size": 1, "shuffle_buffer_rows": 1, "shard_count": 1}
        names = ("batch_size", "readahead", "epochs", "shuffle_buffer_rows", "shard_count")
        problems = [
            f"{name} must be at least {least.get(name, 0)}, it is {getattr(self, name)}"
            for name in names
            if getattr(self, name) < least.get(name, 0)
        ]
        if not 0 <= self.shard_index < max(self.shard_count, 1):
            problems.append(
                f"shard_index must be from 0 to {max(self.shard_count, 1) - 1}, "
                f"it is {self.shard_index}"
            )
        problems += [
            f"repeats of {name!r} must not be negative, they are {count}"
            for name, count in self.repeats.items()
            if count < 0
        ]
        if problems:
            raise ValueError("; ".join(problems))


class InputRefs(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be fetched before the run."""

    base_model_ref: str = ""
    dataset_parquet_refs: tuple[str, ...] = ()
    resume_checkpoint_ref: str = ""


class SampleRequest(msgspec.Struct, frozen=True):
    """A sample to make whenever samples are due."""

    name: str
    mode: str
    """`t2i`, or whatever the trainer knows, such as `instruct-edit`."""
    prompt: str
    negative_prompt: str = ""
    instruction: str | None = None
    source_image: str | None = None
    seed: int | None = None


class UploadUrls(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told what was reported; an empty URL is told nothing."""

    metrics_url: str = ""
    checkpoint_url: str = ""
    sample_url: str = ""
    terminal_url: str = ""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """What the published revision is to be called."""

    ref: str = ""
    tags: tuple[str, ...] = ()


class UploadScope(msgspec.Struct, frozen=True, kw_only=True):
    """Whose weights these are."""

    kind: str = "training"
    destination_repo: str = ""
    """`owner/name`."""
    job_id: str = ""


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """A job spec as it was written, with the defaults where it says nothing."""

    request_id: str
    trainer: str = ""
    trainer_api_version: str = API_VERSION
    max_steps: int = 0
    metric_every: int = 10
    checkpoint_every: int = 0
    sample_every: int = 0
    owner: str = ""
    release_ref: str = ""
    hyperparams: dict[str, Any] = {}
    dataset: DatasetSpec = DatasetSpec()
    mock_batches: tuple[Any, ...] = ()
    inputs: InputRefs = InputRefs()
    sample_prompts: tuple[Any, ...] = ()
    sample_seed: int | None = None
    resume_from_latest: bool = False
    resume_checkpoint_path: str = ""
    orchestrated: bool = False
    capability_token: str = ""
    max_runtime_seconds: int = 0
    cancel_file_path: str = ""
    uploads: UploadUrls = UploadUrls()
    execution_hints: dict[str, Any] = {}
    seed: int | None = None
    cancel_grace_seconds: int = 30
    upload_drain_seconds: int = 600
    keep_last_checkpoints: int = 0
    keep_best_checkpoints: KeepBest | None = None
    """Besides the last ones; of those at least one stays then."""
    eval_every: int = 0
    eval_dataset: DatasetSpec = DatasetSpec()
    eval_max_batches: int = 0
    """0 takes all."""
    early_stop: EarlyStop | None = None
    nan_policy: NanPolicy = "fail"
    profile: ProfileWindow | None = None
    trackers: tuple[str | dict[str, Any], ...] = ()
    deterministic: bool = False
    heartbeat_seconds: float = 0
    """Between two events that say only that the process is alive; 0 writes none."""
    stall_seconds: float = 0
    """After which a run that does not go on says where it is; 0 never does."""
    events_version: Literal[1, 2] = 1
    destination: Destination = Destination()
    scope: UploadScope = UploadScope()
    """From `execution_hints` and the keys beside it."""

    def __repr__(self) -> str:
        return f"<JobFile of {self.request_id!r}, {self.max_steps} steps of {self.trainer!r}>"

    @property
    def spec(self) -> TrainingJobSpec:
        """What a trainer sees of it.

        Raises:
            ValueError: A count is negative, or the id is empty.
        """
        names = TrainingJobSpec.__struct_fields__
        return TrainingJobSpec(**{name: getattr(self, name) for name in names})

    @property
    def samples(self) -> tuple[SampleRequest, ...]:
        """What is to be made of `sample_prompts`; entries that are none are left out."""
        return tuple(
            sample
            for index, entry in enumerate(self.sample_prompts)
            if (sample := _sample(index, entry, self.sample_seed)) is not None
        )


_ALIASES = {
    "base_model_ref": "base_model_url",
    "dataset_parquet_refs": "dataset_parquet_urls",
    "resume_checkpoint_ref": "resume_checkpoint_url",
}
_SCOPE = {
    "kind": ("kind", "execution_kind"),
    "destination_repo": ("destination_repo", "repo", "output_repo"),
    "job_id": ("job_id", "conversion_job_id", "training_job_id"),
}
_COUNTS = (
    "max_runtime_seconds",
    "cancel_grace_seconds",
    "upload_drain_seconds",
    "keep_last_checkpoints",
    "eval_every",
    "eval_max_batches",
    "heartbeat_seconds",
    "stall_seconds",
)


def load_job_file(path: str | os.PathLike[str]) -> JobFile:
    """Read a job spec.

    Raises:
        FileNotFoundError: There is none.
        StartupContractError: It is no job spec; the message names the key.
    """
    try:
        with open(path, "rb") as file:
            body = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no job spec {str(path)!r}: write one there, or set TRAINER_JOB_SPEC_PATH"
        ) from None
    try:
        fields = msgspec.json.decode(body)
    except msgspec.MsgspecError as error:
        raise _invalid(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _invalid(f"{str(path)!r} is not one JSON object")
    return parse_job(fields)


def parse_job(fields: Mapping[str, Any]) -> JobFile:
    """Read a job spec that is decoded already. Unknown keys are left out, null is not given.

    Raises:
        StartupContractError: A value cannot be what it is to be, or no run could use it.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    known["scope"] = _scope(known)
    if isinstance(known.get("inputs"), dict):
        known["inputs"] = _inputs(known["inputs"])
    for name in ("dataset", "eval_dataset", "uploads", "destination"):
        if isinstance(known.get(name), dict):
            known[name] = {key: one for key, one in known[name].items() if one is not None}
    try:
        job = msgspec.convert(known, JobFile, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid("; ".join(_mistakes(known)) or str(error)) from error
    if job.trainer_api_version not in ("", API_VERSION):
        raise StartupContractError(
            "startup.unsupported_api_version",
            f"trainer_api_version is {job.trainer_api_version!r}, known is {API_VERSION!r}",
        )
    negative = [name for name in _COUNTS if getattr(job, name) < 0]
    if negative:
        code = "timeout" if negative[0] == "max_runtime_seconds" else "job_spec"
        raise StartupContractError(
            f"startup.invalid_{code}", f"{', '.join(negative)} must not be negative"
        )
    unmeasured = _unmeasured(job)
    if unmeasured:
        raise _invalid("; ".join(unmeasured))
    return job


def _unmeasured(job: JobFile) -> list[str]:
    """Return in words what asks for a metric that no evaluation will make."""
    wanted = {"early_stop": job.early_stop, "keep_best_checkpoints": job.keep_best_checkpoints}
    return [
        f"{name} looks at {one.metric!r}, and eval_every is 0: set it, or name another metric"
        for name, one in wanted.items()
        if one is not None and one.metric.startswith("eval/") and not job.eval_every
    ]


def _mistakes(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each key, not only with the first one."""
    for field in msgspec.structs.fields(JobFile):
        if field.name in fields:
            try:
                msgspec.convert(fields[field.name], field.type, strict=False)
            except msgspec.ValidationError as error:
                yield f"{field.name}: {error}"
        elif field.required:
            yield f"{field.name} is missing"


def _invalid(message: str) -> StartupContractError:
    return StartupContractError("startup.invalid_job_spec", message)


def _scope(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the first that is given of each, in the hints and then beside them."""
    hints = fields.get("execution_hints")
    places = [hints if isinstance(hints, dict) else {}, fields]
    found: dict[str, str] = {}
    for name, keys in _SCOPE.items():
        given = (str(place.get(key) or "").strip() for place in places for key in keys)
        value = next((one for one in given if one), "")
        if value:
            found[name] = value.lower() if name == "kind" else value
    return found


def _inputs(fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, alias in _ALIASES.items():
        value = fields.get(name) or fields.get(alias)
        if value:
            found[name] = value
    return found


def _sample(index: int, entry: Any, seed: int | None) -> SampleRequest | None:
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict):
        return None
    given = {name: value for name, value in entry.items() if value is not None}
    defaults = {"name": f"sample-{index:02d}", "mode": "t2i", "prompt": "", "seed": seed}
    try:
        return msgspec.convert({**defaults, **given}, SampleRequest, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(f"sample_prompts[{index}]: {error}") from error
