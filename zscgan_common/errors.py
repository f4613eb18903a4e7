"""The base of the errors of all packages."""


class ZSCGANError(Exception):
    """What a user can fix: the message says what was expected, what came and what to type next."""
