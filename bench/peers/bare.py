"""Nothing: what starting Python itself takes."""
