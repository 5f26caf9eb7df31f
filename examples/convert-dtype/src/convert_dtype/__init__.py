"""A cast in three shapes."""
