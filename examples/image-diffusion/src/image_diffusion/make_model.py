"""`python -m image_diffusion.make_model FOLDER`: a real pipeline with random weights, 0.5 MB."""

import sys

from gen_worker.models.tiny import tiny_stable_diffusion

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which folder: python -m image_diffusion.make_model FOLDER")
    print(tiny_stable_diffusion(sys.argv[1]))
