"""What ``calibrators``, ``engines`` and ``converter`` share; it imports none of them."""
