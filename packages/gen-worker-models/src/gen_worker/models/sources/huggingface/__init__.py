"""Models of Hugging Face repositories, kept in the cache that other tools share."""
