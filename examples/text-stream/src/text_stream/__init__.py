"""Text, word by word."""
