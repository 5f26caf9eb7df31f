"""What of a text is learned: targets, cuts, paddings and packs, with a real tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.models.tiny.tokens import text_tokenizer
from gen_worker.trainer.data.tokens import (
    IGNORED,
    TokenRow,
    chat_row,
    completion_row,
    fitted,
    stacked,
    text_row,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")

CHAT = [
    {"role": "user", "content": "a fox?"},
    {"role": "assistant", "content": "over the dog"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "stories"},
]
TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return text_tokenizer()


def learned(tokenizer: Any, row: TokenRow) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


def test_of_a_text_all_but_its_first_token_is_learned(tokenizer: Any) -> None:
    row = text_row(tokenizer, "the quick fox")
    assert tokenizer.decode(row.ids) == "the quick fox</s>"
    assert row.labels == [IGNORED, *row.ids[1:]]
    assert row.targets == len(row.ids) - 1


def test_of_a_completion_the_prompt_is_not_learned(tokenizer: Any) -> None:
    row = completion_row(tokenizer, "the quick", " brown fox")
    assert tokenizer.decode(row.ids) == "the quick brown fox</s>"
    assert learned(tokenizer, row) == " brown fox</s>"


def test_of_a_chat_what_the_assistant_says_is_learned(tokenizer: Any) -> None:
    tokenizer = text_tokenizer()
    tokenizer.chat_template = TURNS
    row = chat_row(tokenizer, CHAT)
    assert tokenizer.decode(row.ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert learned(tokenizer, row) == "over the dog</s>stories</s>"


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        ("", CHAT, "no chat template"),
        ("{{ messages[-1]['content'] }}", CHAT, "rewrites earlier turns"),
        (TURNS, [{"role": "user"}], "message 0 is .* has to have a role and a content"),
        (TURNS, ["hello"], "message 0 is 'hello'"),
        (TURNS, [{"role": "user", "content": None}], "message 0 has .* no text"),
    ],
)
def test_a_chat_that_cannot_be_followed_is_named(template: str, chat: Any, said: str) -> None:
    tokenizer = text_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValidationError, match=said):
        chat_row(tokenizer, chat)


def test_long_rows_are_cut_or_refused() -> None:
    rows = [TokenRow([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4]), TokenRow([5, 6], [IGNORED, 6])]
    assert fitted(rows, 3) == [TokenRow([1, 2, 3], [IGNORED, IGNORED, 3]), rows[1]]
    assert fitted(rows, 4, "fail") == rows
    with pytest.raises(ValidationError, match=r"max_length is 3 tokens: row 0 has 4 tokens$"):
        fitted(rows, 3, "fail")
    with pytest.raises(ValidationError, match=r"row 0 has 4 tokens and none to learn among them$"):
        fitted(rows, 2)


def test_rows_are_padded_to_the_longest() -> None:
    rows = [TokenRow([1, 2, 3], [IGNORED, 2, 3]), TokenRow([4, 5], [4, 5])]
    tensors = {name: value.tolist() for name, value in stacked(rows, 9).items()}
    assert tensors == {
        "input_ids": [[1, 2, 3], [4, 5, 9]],
        "labels": [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]],
        "position_ids": [[0, 1, 2], [0, 1, 0]],
        "segments": [[1, 1, 1], [1, 1, 0]],
    }


def test_rows_share_sequences_and_nothing_else() -> None:
    rows = [TokenRow([n] * n, [n] * n) for n in (3, 4, 2, 1)]
    tensors = {name: value.tolist() for name, value in stacked(rows, 9, pack_to=5).items()}
    assert tensors == {
        "input_ids": [[3, 3, 3, 2, 2], [4, 4, 4, 4, 1]],
        "labels": [[IGNORED, 3, 3, IGNORED, 2], [IGNORED, 4, 4, 4, IGNORED]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]],
        "segments": [[1, 1, 1, 2, 2], [1, 1, 1, 1, 2]],
    }
