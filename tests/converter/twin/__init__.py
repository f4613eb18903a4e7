"""The tests of ``converter.twin``."""
