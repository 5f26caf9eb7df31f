"""Images and captions as a dataset."""
