"""The tests of ``converter.graph.twin``."""
