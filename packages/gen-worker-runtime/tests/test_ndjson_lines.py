"""Lines come out whole whatever pieces the bytes came in, and long ones are never kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.ndjson.lines import LineBuffer, LineTooLongError

pieces = st.lists(st.binary(max_size=6).map(lambda piece: piece.replace(b"\x01", b"\n")))


def taken(buffer: LineBuffer) -> list[bytes | None]:
    """Return every line there is; None stands for one that was too long."""
    lines: list[bytes | None] = []
    while True:
        try:
            line = buffer.take()
        except LineTooLongError:
            lines.append(None)
            continue
        if line is None:
            return lines
        lines.append(line)


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=6), st.data())
def test_pieces_do_not_matter(lines: list[bytes], data: st.DataObject) -> None:
    text = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    buffer = LineBuffer(max_bytes=8)
    found: list[bytes | None] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        buffer.feed(text[start:end])
        found += taken(buffer)
    buffer.end()
    found += taken(buffer)
    expected = [line if len(line) <= 8 else None for line in text.split(b"\n")]
    if expected[-1] == b"":
        expected.pop()
    assert found == expected
    assert buffer.is_empty or expected[-1] is None


def test_a_long_line_is_told_before_its_end_and_not_kept() -> None:
    buffer = LineBuffer(max_bytes=4)
    buffer.feed(b"12345")
    with pytest.raises(LineTooLongError, match="more than 4 bytes"):
        buffer.take()
    for _ in range(3):
        buffer.feed(b"67890")
        assert buffer.take() is None
    buffer.feed(b"\nok\n")
    assert buffer.take() == b"ok"
