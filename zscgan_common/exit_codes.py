"""Exit codes of the console scripts."""

FAILED = 1
"""What was asked for could not be done; the message says why and what to type next."""
USAGE = 2
"""The command line itself is wrong, as click has it."""
MISSED = 3
"""All was written, but ``--max-drop`` was not met."""
INTERRUPTED = 130
"""Ctrl-C or SIGTERM, as shells have it."""
