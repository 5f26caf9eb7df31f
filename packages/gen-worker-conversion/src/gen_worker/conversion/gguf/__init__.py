"""GGUF: blocks of quantized values, and files of them."""
