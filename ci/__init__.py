"""The checks behind the sessions of `noxfile.py`; each runs with `python -m ci.<name>`."""
