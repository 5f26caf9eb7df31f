"""The layouts of a model's files: one set of weights under the names that each loader knows."""
