"""Models of Hugging Face, imported."""
