"""`gen-worker convert` and `gen-worker inspect`: where models come from, and what is shown."""
