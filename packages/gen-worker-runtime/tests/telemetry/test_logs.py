"""Log lines are text or JSON, and carry no credential in either."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from gen_worker.runtime.telemetry import install_logging, load_telemetry_settings, log_fatal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.telemetry.settings import LogFormat

SECRET = "hf_abcdefghijklmnopqrst"


class Lines:
    """What is written while a test runs."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._handlers: list[logging.Handler] = []
        self._level = logging.getLogger().level

    def install(self, log_format: LogFormat) -> None:
        self._handlers.append(install_logging(log_format, stream=self._stream))

    def __getitem__(self, number: int) -> str:
        return self._stream.getvalue().splitlines()[number]

    def close(self) -> None:
        root = logging.getLogger()
        root.setLevel(self._level)
        for handler in self._handlers:
            root.removeHandler(handler)
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    yield lines
    lines.close()


@pytest.mark.claims("WORKER_LOG_FORMAT")
def test_lines_are_json_when_asked_for(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_telemetry_settings().log_format == "text"
    monkeypatch.setenv("WORKER_LOG_FORMAT", "JSON")
    lines.install(load_telemetry_settings().log_format)
    logging.getLogger("a.b").warning(
        "%s with %s", "x", f"token={SECRET}", extra={"jwt": "abc", "n": 1}
    )
    line = msgspec.json.decode(lines[0])
    assert line["level"] == "warning"
    assert line["logger"] == "a.b"
    assert line["message"] == "x with token=<redacted>"
    assert (line["jwt"], line["n"]) == ("<redacted>", 1)
    assert line["timestamp"] > 1e9


def test_a_traceback_is_part_of_its_line(lines: Lines) -> None:
    lines.install("json")
    try:
        raise ValueError(f"Bearer {SECRET}")
    except ValueError:
        logging.getLogger("a").exception("it broke")
    line = msgspec.json.decode(lines[0])
    assert line["message"] == "it broke"
    assert line["traceback"].endswith("ValueError: Bearer <redacted>")


def test_requests_that_went_well_are_no_news(lines: Lines) -> None:
    lines.install("text")
    logging.getLogger("httpx").info('HTTP Request: POST http://127.0.0.1/ "HTTP/1.1 200 OK"')
    logging.getLogger("httpx").warning("it is slow")
    assert lines[0].endswith("WARNING httpx: it is slow")


def test_text_is_masked_as_well(lines: Lines) -> None:
    lines.install("text")
    logging.getLogger("a").info("go to https://user:%s@example.com", "secret")
    assert lines[0].endswith("INFO a: go to https://<redacted>@example.com")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_structured_lines_are_the_same_in_both(lines: Lines, log_format: LogFormat) -> None:
    lines.install(log_format)
    logging.getLogger("gen_worker.worker").info('worker.startup.phase {"phase":"boot"}')
    assert lines[0] == 'worker.startup.phase {"phase":"boot"}'


def test_a_fatal_error_is_one_line(lines: Lines) -> None:
    lines.install("text")
    assert log_fatal("settings_load", ValueError(f"api_key={SECRET}"), exit_code=2) == 2
    word, _, text = lines[0].partition(" ")
    record = msgspec.json.decode(text)
    assert word == "worker.fatal"
    assert record["phase_context"] == "settings_load"
    assert record["exception_class"] == "ValueError"
    assert record["exception_message"] == "api_key=<redacted>"
    assert record["exit_code"] == 2
    assert "ValueError: api_key=<redacted>" in record["traceback"]
