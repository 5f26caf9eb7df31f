"""What a person at a terminal sees, and a program never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.terminal import TerminalReports
from gen_worker.events import Emitted

if TYPE_CHECKING:
    from conftest import Cli, Terminal

ESCAPE = "\x1b["
UPLOAD = "request.upload_progress"


@pytest.mark.claims("output.terminal")
def test_values_are_coloured_and_reports_are_sentences(terminal: Terminal) -> None:
    terminal.start("run", "reporting", project="shapes")
    assert terminal.wait() == 0
    assert ESCAPE in terminal.text
    plain = terminal.plain_text
    assert '{"event":"result","value":{"text":"local-' in plain
    assert "warning: a line" in plain
    assert 'shapes.custom {"z":1,"a":[1]}' in plain
    assert "request.progress" not in plain


@pytest.mark.claims("output.no-color")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_is_honoured(terminal: Terminal, environment: dict[str, str]) -> None:
    terminal.start("run", "echo", "a", project="shapes", environment=environment)
    assert terminal.wait() == 0
    assert terminal.text == '{"event":"result","value":{"text":"a"}}\r\n'


@pytest.mark.claims("output.progress-bar")
def test_a_bar_appears_for_work_over_a_second(terminal: Terminal) -> None:
    terminal.start("run", "slow", project="shapes")
    terminal.expect("slow cooking")
    assert terminal.wait() == 0
    assert '{"event":"result","value":{"text":"done"}}' in terminal.plain_text


@pytest.mark.claims("output.progress-bar")
def test_no_bar_for_quick_work(terminal: Terminal) -> None:
    terminal.start("run", "echo", "a", project="shapes")
    assert terminal.wait() == 0
    assert terminal.plain_text == '{"event":"result","value":{"text":"a"}}\r\n'


@pytest.mark.claims("output.terminal")
def test_a_pipe_beside_a_terminal_gets_plain_values(terminal: Terminal) -> None:
    terminal.start("run", "reporting", project="shapes", piped_stdout=True)
    assert terminal.wait() == 0
    assert terminal.stdout.startswith('{"event":"result","value":{"text":"local-')
    assert "warning: a line" in terminal.plain_text
    assert '{"event"' not in terminal.plain_text


@pytest.mark.claims("output.terminal")
def test_rich_is_not_imported_for_a_pipe(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec, sys\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    pass\n"
        "class Out(msgspec.Struct):\n    loaded: bool\n"
        "@inference_function\n"
        "def look(ctx: RequestContext, payload: In) -> Out:\n"
        "    ctx.log('a line')\n"
        "    return Out(loaded='rich' in sys.modules)\n"
    )
    assert cli("run", "--raw", project=folder).values == [{"loaded": False}]


@pytest.mark.claims("output.progress-bar")
def test_uploads_move_the_bar_and_print_no_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gen_worker.cli.terminal._BAR_AFTER_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    facts = {"ref": "jobs/j/outputs/part/model.safetensors", "bytes_written": 4_000_000}
    reports = TerminalReports()
    with reports.showing("convert"):
        for stage, done in (("stream_upload", 1_000_000), ("stream_finalized", 4_000_000)):
            payload = {**facts, "stage": stage, "bytes_uploaded": done}
            reports.emit(Emitted(request_id="r", type=UPLOAD, payload=payload, at=0.0))
            assert reports._stage.startswith("part/model.safetensors") == (done < 4_000_000)
    assert UPLOAD not in capfd.readouterr().err
