"""What llama.cpp makes of a GGUF file: its logits, the vectors of an encoder, its tokens."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTEXT = 256  # the smallest that it has
_F32 = 0  # GGML_TYPE_F32; what is kept of earlier tokens is float16 otherwise
_ALONE = {"n_threads": 1, "n_threads_batch": 1, "verbose": False}


def _opened(file: str | os.PathLike[str], **how: Any) -> Any:
    import llama_cpp  # type: ignore[import-not-found,import-untyped,unused-ignore]

    exact = {"type_k": _F32, "type_v": _F32, "flash_attn": False}
    sizes = {"n_ctx": CONTEXT, "n_batch": CONTEXT}
    return closing(llama_cpp.Llama(os.fspath(file), **_ALONE, **exact, **sizes, **how))


def logits(file: str | os.PathLike[str], ids: Sequence[int], **how: Any) -> Any:
    """Return the logits after every token as a tensor: (tokens, vocabulary)."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    with _opened(file, logits_all=True, **how) as model:
        model.eval(list(ids))
        return torch.tensor(model.scores[: len(ids)])


def vectors(file: str | os.PathLike[str], ids: Sequence[int], *, is_pooled: bool = False) -> Any:
    """Return what an encoder makes of every token, or of all together as the file says."""
    import llama_cpp  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import torch  # type: ignore[import-not-found,unused-ignore]

    pooling = -1 if is_pooled else llama_cpp.LLAMA_POOLING_TYPE_NONE
    with _opened(file, embedding=True, pooling_type=pooling) as model:
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        failed = llama_cpp.llama_encode(model.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        assert not failed
        if is_pooled:
            found = [llama_cpp.llama_get_embeddings_seq(model.ctx, 0)]
        else:
            places = range(len(ids))
            found = [llama_cpp.llama_get_embeddings_ith(model.ctx, place) for place in places]
        rows = [row[: model.n_embd()] for row in found]
        return torch.tensor(rows[0] if is_pooled else rows)


def tokens(file: str | os.PathLike[str], texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the tokens of each text, special ones in it and around it included."""
    import llama_cpp  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with closing(llama_cpp.Llama(os.fspath(file), vocab_only=True, verbose=False)) as model:
        for text in texts:
            yield model.tokenize(text.encode(), add_bos=True, special=True)
