"""`python -m lora_diffusion.prepare`: a real pipeline with random weights, and images to learn."""

from __future__ import annotations

from pathlib import Path

from gen_worker.models.tiny import tiny_stable_diffusion
from PIL import Image, ImageDraw

MODEL, IMAGES = Path("tiny-sd"), Path("shapes")
COLORS = ("red", "green", "blue")
SHAPES = ("circle", "square")
SIZE = (48, 40)
"""Width and height; the trainer cuts out the middle."""


def draw(color: str, shape: str) -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)((12, 8, 35, 31), fill=color)
    return image


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for color in COLORS:
        for shape in SHAPES:
            path = IMAGES / f"{color}-{shape}.png"
            draw(color, shape).save(path)
            path.with_suffix(".txt").write_text(f"a {color} {shape}\n", encoding="utf-8")
    tiny_stable_diffusion(MODEL)
    print(f"{len(COLORS) * len(SHAPES)} images in {IMAGES}, a pipeline in {MODEL}")


if __name__ == "__main__":
    main()
