"""Fine-tunes pipelines of diffusers: Stable Diffusion, SDXL, SD3 and Flux, by LoRA or in full.

    {"trainer": "gen_worker.trainer.recipes.diffusion:DiffusionTrainer",
     "inputs": {"base_model_ref": "acme/painter"},
     "dataset": {"folder": "photos", "batch_size": 4, "shuffle": true, "epochs": 0},
     "hyperparams": {"images": {"resolution": 1024}, "lora_rank": 16}}

`trainer` is what to copy: what is particular to a kind of pipeline is in `families`, how noise is
added in `objectives`, and what images and captions are made into before that in `encoding`.
"""

from __future__ import annotations

from gen_worker.trainer.recipes.diffusion.options import DiffusionOptions
from gen_worker.trainer.recipes.diffusion.trainer import DiffusionTrainer

__all__ = ["DiffusionOptions", "DiffusionTrainer"]
