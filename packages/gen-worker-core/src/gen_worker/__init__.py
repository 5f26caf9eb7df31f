"""Write a function, serve it as an AI endpoint."""

# Other distributions add `gen_worker.<part>`; editable installs put each part in its own directory.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)
