"""The one path every call takes."""
