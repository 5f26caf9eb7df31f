from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import errors
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    CanceledError,
    DeadlineExceededError,
    DuplicateRequestError,
    Failure,
    FatalError,
    FunctionUnavailableError,
    HardwareUnmetError,
    InputTooLargeError,
    ModelResolutionError,
    Origin,
    OutputTooLargeError,
    OverloadedError,
    OverrideError,
    RefCompatibilitySurprise,
    ResourceError,
    RetryableError,
    SettingsError,
    UnknownFunctionError,
    ValidationError,
    WorkerError,
    classify,
    safe_text,
)

INSTANCES: list[WorkerError] = [
    WorkerError("w"),
    ValidationError("v", path="$.steps"),
    OutputTooLargeError(size_bytes=5, max_bytes=4),
    InputTooLargeError(size_bytes=5, max_bytes=4, source="image"),
    RefCompatibilitySurprise(ref="a/b", axis="pipeline"),
    OverrideError("o", code="unknown_override_param", param="engine"),
    UnknownFunctionError("u"),
    CanceledError("c"),
    DeadlineExceededError("d"),
    RetryableError("r"),
    OverloadedError(retry_after_s=2.5),
    DuplicateRequestError("d"),
    FunctionUnavailableError(reason="setup_failed"),
    HardwareUnmetError("h", reason="insufficient_vram"),
    ResourceError("r"),
    AuthError("a"),
    ArtifactTransferError("t", provider="hf", phase="download", retryable=True, status_code=503),
    ModelResolutionError("m", provider="tensorhub"),
    FatalError("f"),
    SettingsError(("A must be a number", "B must be a number")),
]


def test_every_public_error_has_an_instance_here() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    classes = {item for item in public if isinstance(item, type) and issubclass(item, WorkerError)}
    assert {type(error) for error in INSTANCES} == classes


@pytest.mark.parametrize("error", INSTANCES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_survive_pickling_with_their_data(error: WorkerError, duplicate: Any) -> None:
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert classify(twin) == classify(error)


class OwnError(ValidationError):
    """As an author subclasses it, with a constructor of another shape."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width}x{height} is too large", path="$.size")
        self.size = (width, height)


def test_an_authors_subclass_survives_pickling_too() -> None:
    twin = pickle.loads(pickle.dumps(OwnError(3, 4)))
    assert (str(twin), twin.size, twin.path) == ("3x4 is too large", (3, 4), "$.size")


def test_notes_survive_pickling() -> None:
    error = FatalError("f")
    error.add_note("seen at step 7")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen at step 7"]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ValidationError, ValueError),
        (InputTooLargeError, ValueError),
        (UnknownFunctionError, LookupError),
        (DeadlineExceededError, TimeoutError),
        (AuthError, PermissionError),
        (ArtifactTransferError, OSError),
        (DeadlineExceededError, CanceledError),
        (OverloadedError, RetryableError),
        (HardwareUnmetError, FunctionUnavailableError),
        (ModelResolutionError, ArtifactTransferError),
    ],
)
def test_errors_are_caught_by_what_they_are(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)


# What each class means: error_type, retryable, HTTP status, exit code from input and from handler.
TABLE: list[tuple[BaseException, tuple[str, bool, int, int, int]]] = [
    (ValidationError("x"), ("validation", False, 400, 2, 1)),
    (OwnError(1, 2), ("validation", False, 400, 2, 1)),
    (InputTooLargeError(size_bytes=2, max_bytes=1), ("validation", False, 413, 2, 1)),
    (OutputTooLargeError(size_bytes=2, max_bytes=1), ("validation", False, 400, 2, 1)),
    (OverrideError("x", code="c", param="p"), ("validation", False, 400, 2, 1)),
    (RefCompatibilitySurprise("x"), ("ref_compatibility_surprise", False, 400, 1, 1)),
    (UnknownFunctionError("x"), ("internal", False, 404, 2, 1)),
    (CanceledError("x"), ("canceled", False, 499, 130, 130)),
    (InterruptedError("x"), ("canceled", False, 499, 130, 130)),
    (DeadlineExceededError("x"), ("canceled", False, 504, 1, 1)),
    (RetryableError("x"), ("retryable", True, 503, 1, 1)),
    (OverloadedError(), ("worker_overloaded", True, 429, 1, 1)),
    (DuplicateRequestError("x"), ("duplicate_request_id", False, 409, 1, 1)),
    (HardwareUnmetError("x"), ("hardware_unmet", False, 503, 1, 1)),
    (FunctionUnavailableError("x"), ("function_unavailable", False, 503, 1, 1)),
    (ResourceError("x"), ("resource", False, 503, 1, 1)),
    (MemoryError("x"), ("resource", False, 503, 1, 1)),
    (AuthError("x"), ("auth", False, 403, 1, 1)),
    (ArtifactTransferError("x"), ("artifact_transfer", False, 502, 1, 1)),
    (ArtifactTransferError("x", retryable=True), ("artifact_transfer", True, 502, 1, 1)),
    (ModelResolutionError("x"), ("artifact_transfer", False, 502, 3, 3)),
    (ModelResolutionError("x", retryable=True), ("artifact_transfer", True, 502, 3, 3)),
    (FatalError("x"), ("fatal", False, 500, 1, 1)),
    (SettingsError(("x",)), ("fatal", False, 500, 2, 2)),
    (WorkerError("x"), ("internal", False, 500, 1, 1)),
    (ValueError("x"), ("validation", False, 400, 2, 1)),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ("validation", False, 400, 2, 1)),
    (msgspec.ValidationError("x"), ("validation", False, 400, 2, 1)),
    (KeyError("x"), ("internal", False, 500, 1, 1)),
    (PermissionError("x"), ("internal", False, 500, 1, 1)),
    (TimeoutError("x"), ("internal", False, 500, 1, 1)),
    (ZeroDivisionError("x"), ("internal", False, 500, 1, 1)),
]


@pytest.mark.parametrize(("error", "expected"), TABLE, ids=lambda item: type(item).__name__)
def test_the_table(error: BaseException, expected: tuple[str, bool, int, int, int]) -> None:
    raised_while_preparing = classify(error, origin="input")
    raised_by_handler = classify(error)
    for failure in (raised_while_preparing, raised_by_handler):
        assert (failure.error_type, failure.retryable, failure.http_status) == expected[:3]
        assert failure.exception == type(error).__name__
    exit_codes = (raised_while_preparing.exit_code, raised_by_handler.exit_code)
    assert exit_codes == expected[3:]


@pytest.mark.parametrize("name", ["OutOfMemoryError", "CUDAOutOfMemoryError"])
@pytest.mark.parametrize("base", [RuntimeError, ValueError])
def test_out_of_memory_is_known_by_name_and_its_text_is_hidden(name: str, base: type) -> None:
    error = type(name, (base,), {})("Tried to allocate 2.00 GiB. GPU 0 has 24 GiB in total")
    failure = classify(error)
    assert (failure.error_type, failure.message) == ("resource", "out of memory")


def test_a_subclass_of_an_out_of_memory_error_is_one_too() -> None:
    base = type("OutOfMemoryError", (RuntimeError,), {})
    assert classify(type("Ours", (base,), {})("x")).error_type == "resource"


@pytest.mark.parametrize("error", [KeyError("secret prompt"), WorkerError("secret prompt")])
def test_the_text_of_internal_errors_is_hidden(error: Exception) -> None:
    failure = classify(error, detail="Traceback …")
    assert (failure.message, failure.detail) == ("internal error", "Traceback …")


def test_data_of_our_own_errors_is_kept() -> None:
    override = classify(OverrideError("x", code="override_tag_not_found", param="engine"))
    assert (override.code, override.path) == ("override_tag_not_found", "$._models.engine")
    assert classify(ValidationError("x", path="$.a[0]")).path == "$.a[0]"
    assert classify(HardwareUnmetError(reason="insufficient_vram")).code == "insufficient_vram"
    assert classify(OverloadedError(retry_after_s=2.5)).retry_after_s == 2.5


def test_the_path_of_a_file_is_not_the_place_of_a_mistake() -> None:
    class DiskFullError(ResourceError):
        path = "/srv/models/blobs"

    assert classify(DiskFullError("the disk is full")).path == ""


class Foreign(Exception):
    retryable = True
    retry_after_s = "soon"
    code = 404
    reason = "the prompt was …"
    path = "/etc"


def test_attributes_of_foreign_errors_are_not_mistaken_for_ours() -> None:
    failure = classify(Foreign("x"))
    assert failure.retryable is False
    assert (failure.code, failure.path, failure.retry_after_s) == ("", "", None)


class Flaky(FatalError):
    retryable = True


def test_an_authors_class_may_decide_about_retries() -> None:
    assert classify(Flaky("x")).retryable is True


def test_an_error_whose_text_fails_is_still_reported() -> None:
    class Broken(ValueError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert classify(Broken()).message == "invalid input"


class ClassWithoutHash(type):
    __hash__ = None  # type: ignore[assignment]


class Unhashable(ValueError, metaclass=ClassWithoutHash):
    pass


class RaisingFacts(ValidationError):
    def __getattribute__(self, name: str) -> Any:
        if name in ("path", "retryable"):
            raise RuntimeError("no facts")
        return super().__getattribute__(name)


class Exiting(ValueError):
    def __str__(self) -> str:
        raise SystemExit(3)


class WrongFacts(WorkerError):
    retryable = "yes"
    code = 7
    path = b"$"
    retry_after_s = float("nan")


@pytest.mark.parametrize(
    "error", [Unhashable("x"), RaisingFacts("x"), Exiting("x"), WrongFacts("x")], ids=repr
)
def test_no_class_of_an_author_can_keep_a_failure_from_being_reported(error: Exception) -> None:
    failure = classify(error)
    assert (failure.error_type, failure.message) == ("internal", "internal error")
    assert (failure.retryable, failure.code, failure.path) == (False, "", "")
    assert failure.retry_after_s is None


def test_a_failure_can_be_encoded_whatever_its_texts_hold() -> None:
    error = ValidationError("no \ud800", path="$.\udfff")
    failure = classify(error, detail="Traceback \ud800")
    assert (failure.message, failure.path) == (r"no \ud800", r"$.\udfff")
    assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure


def test_what_a_caller_chose_is_not_sent_back_at_any_length() -> None:
    failure = classify(OverrideError("x" * 9999, code="unknown_override_param", param="p" * 9999))
    assert (len(failure.message), len(failure.path)) == (500, 500)


def test_the_only_error_of_a_task_group_stands_for_the_group() -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [ValidationError("too wide")])])
    assert classify(group).message == "too wide"
    assert classify(group).exception == "ValidationError"
    both = ExceptionGroup("g", [ValidationError("a"), ValidationError("b")])
    assert classify(both).error_type == "internal"


def test_an_empty_message_gets_the_default_of_its_class() -> None:
    assert classify(RetryableError()).message == "retryable error"
    assert classify(ValueError("  ")).message == "invalid input"


def test_transfer_errors_list_the_facts_that_are_known() -> None:
    error = ArtifactTransferError(
        "download failed", provider="hf", phase="download", status_code=503, cause_type="Timeout"
    )
    assert str(error) == (
        "download failed (provider=hf, phase=download, status=503, cause=Timeout)"
    )
    assert str(ArtifactTransferError("failed")) == "failed"


def test_failures_travel() -> None:
    failure = classify(OverloadedError(), origin="input", detail="d")
    assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("model acme/painter is missing", None),
        ("owner/repo:prod#bf16 and a/b/c", None),
        ("ratio 16/9, 1/2/3", None),
        ("https://host/path?sig=abc failed", "<url> failed"),
        ("see HTTP://host.", "see <url>"),
        ("'https://host/a'", "'<url>'"),
        ("file:///etc/passwd is gone", "<url> is gone"),
        ("saved as x_https://host/a", "saved as x_<url>"),
        ("redis://:pass@host:6379/0 refused", "<url> refused"),
        ("postgres://me:pass@host/db", "<url>"),
        ("s3://bucket/key is missing", None),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer <redacted>"),
        ("bearer xyz", "Bearer <redacted>"),
        ("open /home/me/data.bin", "open <path>"),
        ("No such file: '/home/me/data.bin'", "No such file: '<path>'"),
        ("failed:/home/me/data.bin", "failed:<path>"),
        ("(/var/lib/x)", "(<path>)"),
        ("C:\\Users\\me\\x.bin gone", "<path> gone"),
        ("C:/Users/me/x.bin gone", "<path> gone"),
        ("\\\\server\\share\\x.bin gone", "<path> gone"),
        ("/a//b/../c gone", "<path> gone"),
        ("/tmp", None),
        ("token hf_" + "a" * 30, "token <redacted>"),
        ("sk-proj-" + "a" * 30 + " is wrong", "<redacted> is wrong"),
        ("ghp_" + "a" * 36, "<redacted>"),
        ("AKIA" + "A" * 16, "<redacted>"),
        ("eyJhbGciOiJI.eyJzdWIi.c2lnbmF0", "<redacted>"),
        ("-eyJ-eyJhbGciOiJI.eyJzdWIi.c2lnbmF0", "-<redacted>"),
        ("api_key=abcdef failed", "api_key=<redacted> failed"),
        ("password='hunter2'", "password='<redacted>'"),
        ("hf_hub and sk-learn", None),
        ("max_tokens=5, key=asr, 3=3", None),
    ],
)
def test_texts_for_callers_are_masked(text: str, masked: str | None) -> None:
    assert safe_text(text) == (text if masked is None else masked)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_blank_texts_get_the_default(text: str) -> None:
    assert safe_text(text) == "job failed"
    assert safe_text(text, "x") == "x"


@given(st.text(), st.sampled_from(["input", "handler"]))
def test_any_text_is_cut_and_masking_it_twice_changes_nothing(text: str, origin: Origin) -> None:
    message = classify(ValueError(text), origin=origin).message
    assert 0 < len(message) <= 500
    assert safe_text(message) == message


def test_a_huge_text_is_masked_quickly_and_cut() -> None:
    assert safe_text("/a" * 5_000_000) == "<path>"
    assert len(safe_text("x" * 5_000_000)) == 500
