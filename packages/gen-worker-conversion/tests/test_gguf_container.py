"""The head of a GGUF file is what our reader, which trusts nothing, reads in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import Number, TensorEntry, gguf_header
from gen_worker.models.formats import read_gguf_header

if TYPE_CHECKING:
    from pathlib import Path

_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.alignment": 32,
    "split.no": Number(2, 3),
    "a.flag": True,
    "a.float": 1.5,
    "a.large": 1 << 40,
    "a.negative": -5,
    "a.texts": ["x", "ä", ""],
    "a.numbers": [1, -2, 3],
    "a.floats": [0.5, 2.0],
    "a.flags": [True, False],
    "a.nothing": (),
}
_TENSORS = {
    "first": TensorEntry("F32", (3, 5)),
    "second": TensorEntry("Q4_K", (2, 512)),
    "third": TensorEntry("F16", (7,)),
}


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    header = gguf_header(_METADATA, _TENSORS)
    path = tmp_path / "model.gguf"
    path.write_bytes(header.content + bytes(header.size_bytes - len(header.content)))
    found = read_gguf_header(str(path))
    said = {
        key: list(value.values or ()) if hasattr(value, "values") else value
        for key, value in found.metadata.items()
    }
    assert said == {
        **_METADATA,
        "split.no": 3,
        "a.nothing": [],
    }
    assert list(found.tensors) == list(_TENSORS)
    for name, entry in _TENSORS.items():
        info = found.tensors[name]
        assert (info.type_name, tuple(reversed(info.shape))) == (entry.type_name, entry.shape)
        assert info.end - info.start == entry.size_bytes
        assert info.start % 32 == 0


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("n" * 64, TensorEntry("F32", (1,)), "at most 63 bytes"),
        ("weight", TensorEntry("F32", (1, 1, 1, 1, 1)), "5 dimensions"),
        ("weight", TensorEntry("Q8_0", (4, 33)), "rows of 33 elements"),
        ("weight", TensorEntry("Q4_K", (4, 128)), "packs 256"),
    ],
)
def test_what_cannot_be_in_a_file_is_refused_by_name(
    name: str, entry: TensorEntry, said: str
) -> None:
    with pytest.raises(ConversionInputError, match=said) as caught:
        gguf_header({}, {name: entry})
    assert caught.value.tensor == name
