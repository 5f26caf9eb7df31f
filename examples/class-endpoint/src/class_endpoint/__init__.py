"""State that is expensive to make and cheap to use."""
