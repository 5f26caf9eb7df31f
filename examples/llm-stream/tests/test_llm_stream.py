"""A real model and tokenizer of one repository, streamed by the real command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gen_worker.testing import EndpointTester

if TYPE_CHECKING:
    from gen_worker.testing.shell import Shell

transformers: Any = pytest.importorskip("transformers")

from llm_stream.main import write

PROJECT = Path(__file__).parents[1]
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def published(shell: Shell) -> Path:
    """The folder of a model that was pushed and fetched; the hub is gone by now."""
    shell.python("-m", "llm_stream.make_model", "tiny-llama")
    with shell.hub():
        shell.push("tiny-llama", "demo/tiny-llama")
        shell.run(PROMPT, "max_new_tokens=1")
    return shell.folder / "tiny-llama"


def test_the_stream_is_what_the_model_generates(shell: Shell, published: Path) -> None:
    answer = shell.run(PROMPT, "max_new_tokens=24", "--offline")
    *deltas, result = map(json.loads, answer.stdout.splitlines())
    text = "".join(delta["value"]["text"] for delta in deltas)
    assert len(deltas) > 1
    assert '"stage":"step 24 of 24"' in answer.stderr
    assert result == {"event": "result", "value": {"yielded": len(deltas)}}

    model = transformers.AutoModelForCausalLM.from_pretrained(published)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    tokens = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**tokens, max_new_tokens=24, do_sample=False)
    start = tokens["input_ids"].shape[1]
    assert text == tokenizer.decode(output[0, start:], skip_special_tokens=True)


def test_an_interrupt_ends_the_stream(shell: Shell, published: Path) -> None:
    words = ("run", "--config", str(PROJECT / "endpoint.toml"), PROMPT, "max_new_tokens=4096")
    with subprocess.Popen(
        [sys.executable, "-m", "gen_worker.cli", *words, "--offline"],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert first["event"] == "yield"
    assert process.returncode == 130
    assert '"event":"result"' not in rest


def test_nothing_is_written_from_nothing(published: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(published)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    models = {"model": model, "tokenizer": tokenizer}
    with EndpointTester(write, models=models) as tester:
        failure = tester.run("write", {"prompt": " "}).failure
    assert failure is not None
    assert (failure.error_type, failure.path) == ("validation", "$.prompt")
