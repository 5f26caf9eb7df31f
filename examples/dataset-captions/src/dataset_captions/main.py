"""Makes a dataset of a folder of images, each with its caption in a text file beside it."""

from pathlib import Path

from gen_worker import DatasetContext
from gen_worker.conversion import ProducedFlavor, training_function
from gen_worker.errors import ValidationError

SCHEMA = {"image": "image", "caption": "string", "file_name": "string"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}


@training_function(kind="dataset-generation")
def captions(
    ctx: DatasetContext, folder: str, trigger: str = "", eval_every: int = 10
) -> list[ProducedFlavor]:
    """Write a row for each image; every tenth goes into the split `eval`.

    Args:
        ctx: The call.
        folder: With `cat.png` and `cat.txt`.
        trigger: Comes before every caption, such as the word that a LoRA is to learn.
        eval_every: How many images there are for each one of the split `eval`.
    """
    images = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in IMAGES)
    missing = [path.name for path in images if not path.with_suffix(".txt").is_file()]
    if missing or not images:
        what = f"no caption beside {', '.join(missing)}" if missing else "no images"
        raise ValidationError(f"folder {folder!r} has {what}", path="$.folder")
    writer = ctx.dataset_writer(SCHEMA, kind="captioned_images", on_file=ctx.publish_early)
    with writer:
        for number, path in enumerate(images):
            ctx.raise_if_canceled()
            words = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
            row = {
                "image": path.read_bytes(),
                "caption": f"{trigger}, {words}" if trigger else words,
                "file_name": path.name,
            }
            writer.write(row, split="eval" if number % eval_every == 0 else "train")
            ctx.progress((number + 1) / len(images))
    return [ProducedFlavor(writer.directory, flavor="parquet")]
