"""Images from prompts."""
