"""`python -m llm_stream.make_model FOLDER`: a real language model with random weights, 0.2 MB."""

import sys

from gen_worker.models.tiny import tiny_llama

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which folder: python -m llm_stream.make_model FOLDER")
    print(tiny_llama(sys.argv[1]))
