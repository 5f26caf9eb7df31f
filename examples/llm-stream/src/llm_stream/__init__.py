"""Text from a language model, as it is made."""
