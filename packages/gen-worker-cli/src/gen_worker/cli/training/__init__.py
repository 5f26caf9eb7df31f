"""What `gen-worker train` is made of; `running.run` is the way in."""
