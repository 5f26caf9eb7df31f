"""A complete hub in a directory."""
