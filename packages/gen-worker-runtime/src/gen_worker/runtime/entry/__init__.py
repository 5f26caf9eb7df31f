"""What happens between the start of a container and its first connection."""
