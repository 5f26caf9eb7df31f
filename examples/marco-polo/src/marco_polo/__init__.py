"""The smallest endpoint."""
