"""``python -m converter`` is ``zscgan-convert``."""

from converter.cli import main
from converter.ranks import muted_unless_first

if __name__ == "__main__":
    with muted_unless_first():
        main()
