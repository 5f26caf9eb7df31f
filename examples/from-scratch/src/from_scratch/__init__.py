"""The endpoint from-scratch."""
