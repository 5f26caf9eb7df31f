"""A real speech model hears real sound files; what it understands is nonsense, but its own."""

from __future__ import annotations

import json
import math
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gen_worker.testing import EndpointTester
from gen_worker.testing.workers import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.testing.shell import Shell

if find_spec("transformers") is None or find_spec("torch") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)

np: Any = pytest.importorskip("numpy")
soundfile: Any = pytest.importorskip("soundfile")

from medasr_transcribe.main import medasr_transcribe
from medasr_transcribe.make_model import make_model
from medasr_transcribe.recognizer import CHUNK_S, SpeechRecognizer

PROJECT = Path(__file__).parents[1]
RATE = 16_000


def tones(seconds: float, rate: int) -> Any:
    """Return a sound that changes all the time, so that there is something to hear."""
    moments = np.arange(int(seconds * rate)) / rate
    return 0.4 * np.sin(2 * math.pi * (200 + 900 * moments) * moments).astype("float32")


@pytest.fixture(scope="module")
def model(shell: Shell) -> Path:
    folder = shell.folder / "tiny-ctc"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(model: Path) -> SpeechRecognizer:
    return SpeechRecognizer.from_pretrained(str(model))


@pytest.fixture
def tester(recognizer: SpeechRecognizer) -> Iterator[EndpointTester]:
    with EndpointTester(medasr_transcribe, models={"asr": recognizer}) as tester:
        yield tester


def heard(tester: EndpointTester, path: Path) -> Any:
    """Transcribe a file and return the call."""
    ref = tester.files.add(path.name, path.read_bytes())
    return tester.run("medasr-transcribe", {"audio": {"ref": ref}})


def test_a_published_model_is_fetched_and_hears(
    shell: Shell, model: Path, recognizer: SpeechRecognizer
) -> None:
    soundfile.write(shell.folder / "short.wav", tones(1.5, RATE), RATE, subtype="PCM_16")
    with shell.hub():
        shell.push("tiny-ctc", "demo/tiny-ctc")
        answer = shell.value("audio@short.wav")
    samples, _ = soundfile.read(shell.folder / "short.wav", dtype="float32")
    assert answer == {"text": recognizer.transcribe(samples), "duration_s": 1.5}
    assert answer["text"]


def test_a_worker_hears_for_the_mock_orchestrator(
    shell: Shell, model: Path, recognizer: SpeechRecognizer
) -> None:
    """The README's section, its containers replaced by processes."""
    files = shell.folder / "files"
    files.mkdir()
    soundfile.write(files / "hello.wav", tones(1, RATE), RATE, subtype="PCM_16")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with shell.hub():
        shell.push("tiny-ctc", "demo/tiny-ctc")
        environment = {
            "TENSORHUB_URL": shell.environment["TENSORHUB_URL"],
            "WORKER_ALLOW_TENSORHUB_API_RESOLVE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with WorkerProcess(PROJECT, address, environment=environment) as worker:
            done = shell.python(
                *("-m", "gen_worker.testing.mock_orchestrator", "--run", "medasr-transcribe"),
                *("--listen", address, "--wait-s", "120", "--result-wait-s", "120"),
                *("--serve-files-dir", "files", "--serve-files-listen", "127.0.0.1:0"),
                *("--payload-json", '{"audio": {"ref": "hello.wav"}}'),
            )
            assert worker.terminate(60) == 0, worker.log
    samples, _ = soundfile.read(files / "hello.wav", dtype="float32")
    answer = json.loads(done.stdout.partition("[output]")[2])
    assert answer == {"text": recognizer.transcribe(samples), "duration_s": 1.0}


def test_another_rate_and_more_channels_are_brought_into_shape(
    tmp_path: Path, tester: EndpointTester
) -> None:
    both = np.stack([tones(1, 44_100), tones(1, 44_100)], axis=1)
    soundfile.write(tmp_path / "music.flac", both, 44_100)
    transcript = heard(tester, tmp_path / "music.flac").value
    assert transcript.text
    assert transcript.duration_s == pytest.approx(1.0, abs=0.001)


def test_a_long_recording_is_heard_piece_by_piece(tmp_path: Path, tester: EndpointTester) -> None:
    soundfile.write(tmp_path / "long.wav", tones(CHUNK_S + 1, 8_000), 8_000)
    call = heard(tester, tmp_path / "long.wav")
    assert call.value.duration_s == pytest.approx(CHUNK_S + 1, abs=0.001)
    assert [getattr(event, "progress", None) for event in call.events].count(1.0) == 1


def test_what_is_no_sound_is_refused(tmp_path: Path, tester: EndpointTester) -> None:
    (tmp_path / "notes.wav").write_text("not a sound")
    failure = heard(tester, tmp_path / "notes.wav").failure
    assert failure.error_type == "validation"
