"""Texts as tokens to learn from: which of them are targets, cut, padded or packed.

S sequences of T tokens. A token whose label is `IGNORED` is read and not learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["IGNORED", "TokenRow", "chat_row", "completion_row", "fitted", "stacked", "text_row"]

IGNORED = -100
"""The label that torch's cross entropy leaves out."""


class TokenRow(NamedTuple):
    """One example."""

    ids: list[int]
    labels: list[int]

    @property
    def targets(self) -> int:
        """Tokens that are learned; the first is never one, as nothing comes before it."""
        return sum(label != IGNORED for label in self.labels[1:])


def text_row(tokenizer: Any, text: str) -> TokenRow:
    """Return a text of which all is learned, and that it ends."""
    ids = _ended(tokenizer, tokenizer(text)["input_ids"])
    return TokenRow(ids, [IGNORED, *ids[1:]])


def completion_row(tokenizer: Any, prompt: str, completion: str) -> TokenRow:
    """Return a prompt with its completion, of which only the completion and its end are learned.

    The two are tokenised apart, as the prompt will be when the model is used.
    """
    start = list(tokenizer(prompt)["input_ids"])
    answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
    answer = _ended(tokenizer, answer)
    return TokenRow(start + answer, [IGNORED] * len(start) + answer)


def chat_row(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> TokenRow:
    """Return a conversation in the model's template, of which the assistant's turns are learned.

    Raises:
        ValidationError: The tokenizer has no chat template, or none that can be followed; or a
            message is none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValidationError(
            "the tokenizer has no chat template: give it one, or train on prompts and completions"
        )
    chat = [_message(number, message) for number, message in enumerate(messages)]
    whole = _rendered(tokenizer, chat)
    spans = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        before = _rendered(tokenizer, chat[:number], add_generation_prompt=True) if number else ""
        until = _rendered(tokenizer, chat[: number + 1])
        if not (whole.startswith(until) and until.startswith(before)):
            raise ValidationError(
                "the chat template rewrites earlier turns, so that the assistant's cannot be told "
                "apart: train on prompts and completions"
            )
        spans.append((len(before), len(until)))
    tokens = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(tokens["input_ids"])
    labels = [
        token if any(start <= begin < end for start, end in spans) else IGNORED
        for token, (begin, _) in zip(ids, tokens["offset_mapping"], strict=True)
    ]
    return TokenRow(ids, labels)


def fitted(
    rows: Sequence[TokenRow], max_length: int, too_long: Literal["cut", "fail"] = "cut"
) -> list[TokenRow]:
    """Return the rows, none longer than `max_length` tokens.

    Args:
        rows: Of one batch.
        max_length: Tokens.
        too_long: What becomes of longer ones: their end is cut off, or the batch is refused.

    Raises:
        ValidationError: A row is too long and may not be cut, or nothing of it is left to learn;
            all such rows are named.
    """
    wrong = []
    found = []
    for number, row in enumerate(rows):
        short = TokenRow(row.ids[:max_length], row.labels[:max_length])
        if too_long == "fail" and len(row.ids) > max_length:
            wrong.append(f"row {number} has {len(row.ids)} tokens")
        elif not short.targets:
            wrong.append(f"row {number} has {len(row.ids)} tokens and none to learn among them")
        found.append(short)
    if wrong:
        raise ValidationError(
            f"max_length is {max_length} tokens: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    return found


def stacked(rows: Sequence[TokenRow], pad_id: int, *, pack_to: int = 0) -> dict[str, Any]:
    """Return rows as tensors `[S, T]`: `input_ids`, `labels`, `position_ids` and `segments`.

    Args:
        rows: Each becomes a sequence of its own, or shares one.
        pad_id: Fills what is short; its labels are `IGNORED` and its segment is 0.
        pack_to: Tokens of a sequence that rows share, each with positions and a segment (from 1) of
            its own; 0 gives each row a sequence.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    sequences = _packed(rows, pack_to) if pack_to else [[row] for row in rows]
    length = max(sum(len(row.ids) for row in sequence) for sequence in sequences)
    columns: dict[str, list[list[int]]] = {
        name: [] for name in ("input_ids", "labels", "position_ids", "segments")
    }
    for sequence in sequences:
        missing = length - sum(len(row.ids) for row in sequence)
        parts = {
            "input_ids": [token for row in sequence for token in row.ids] + [pad_id] * missing,
            "labels": [label for row in sequence for label in (IGNORED, *row.labels[1:])]
            + [IGNORED] * missing,
            "position_ids": [at for row in sequence for at in range(len(row.ids))] + [0] * missing,
            "segments": [number for number, row in enumerate(sequence, 1) for _ in row.ids]
            + [0] * missing,
        }
        for name, values in parts.items():
            columns[name].append(values)
    return {name: torch.tensor(values) for name, values in columns.items()}


def _packed(rows: Sequence[TokenRow], size: int) -> list[list[TokenRow]]:
    """Put each row into the first sequence that has room: the same for the same rows."""
    sequences: list[list[TokenRow]] = []
    room: list[int] = []
    for row in rows:
        length = len(row.ids)
        place = next((index for index, left in enumerate(room) if left >= length), len(room))
        if place == len(room):
            sequences.append([])
            room.append(size)
        sequences[place].append(row)
        room[place] -= length
    return sequences


def _ended(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    end = tokenizer.eos_token_id
    return [*ids] if end is None or (ids and ids[-1] == end) else [*ids, end]


def _message(number: int, message: Any) -> dict[str, str]:
    try:
        role, content = message["role"], message["content"]
    except (TypeError, KeyError):
        raise ValidationError(
            f"message {number} is {str(message)[:60]!r}, and has to have a role and a content"
        ) from None
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValidationError(f"message {number} has a role or a content that is no text")
    return {"role": role, "content": content}


def _rendered(tokenizer: Any, chat: list[dict[str, str]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(chat, tokenize=False, **options))
