"""An endpoint without a model: it passes prompts on to a chat API and streams the answer back."""
