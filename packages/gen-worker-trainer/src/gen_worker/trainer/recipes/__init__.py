"""Trainers that are ready: a job spec names one, a base model and data, and needs no code.

Each is also an example of a `GradientTrainer`: copy it and change what is yours.
"""
