"""Damaged files: made from whole ones, read in a child process, and judged by how the program takes them."""
