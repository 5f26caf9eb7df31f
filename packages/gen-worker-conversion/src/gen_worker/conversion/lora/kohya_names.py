"""Names of kohya's files: a module's name with underscores for dots, told apart again.

Which underscore was a dot is known by the words: each word with an underscore that modules have is
in the list. A name with any other word is unknown, never guessed.
"""

from __future__ import annotations

import re

__all__ = ["dotted", "flat"]

_COMPOUND = """
    down_blocks up_blocks mid_block transformer_blocks single_transformer_blocks to_q to_k to_v
    to_out to_add_out add_q_proj add_k_proj add_v_proj norm_q norm_k proj_in proj_out proj_mlp
    conv_in conv_out conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2
    norm1_context ff_context norm_out time_text_embed timestep_embedder text_embedder
    guidance_embedder x_embedder context_embedder pos_embed text_model text_projection self_attn
    q_proj k_proj v_proj out_proj layer_norm1 layer_norm2 final_layer_norm wi_0 wi_1
    input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection
    time_embed label_emb double_blocks single_blocks img_attn txt_attn img_mlp txt_mlp img_mod
    txt_mod img_in txt_in time_in vector_in guidance_in in_layer out_layer final_layer
    adaLN_modulation joint_blocks x_block context_block t_embedder y_embedder
""".split()
_SIMPLE = """
    attn attn1 attn2 ff net proj attentions resnets downsamplers upsamplers conv conv1 conv2 norm
    norm1 norm2 linear linear1 linear2 encoder decoder layers layer mlp fc1 fc2 block
    SelfAttention DenseReluDense q k v o wo wi op out lin modulation qkv embeddings embed_tokens
""".split()
_WORDS = sorted([*_COMPOUND, *_SIMPLE], key=len, reverse=True)
_NEXT = re.compile(rf"({'|'.join(map(re.escape, _WORDS))}|\d+)(?:_|$)")


def dotted(name: str) -> str | None:
    """Return a module's name; None when it has a word that no known module has."""
    parts: list[str] = []
    position = 0
    while position < len(name):
        found = _NEXT.match(name, position)
        if found is None:
            return None
        parts.append(found[1])
        position = found.end()
    return ".".join(parts) or None


def flat(module: str) -> str:
    """Return kohya's name of a module."""
    return module.replace(".", "_")
