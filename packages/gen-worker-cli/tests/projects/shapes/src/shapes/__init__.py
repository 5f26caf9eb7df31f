"""Functions of every shape, for the tests of the command line."""
