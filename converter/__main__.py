"""``python -m converter`` is ``zscgan-convert``."""

from converter.cli.convert import main
from converter.torchrun.ranks import muted_unless_first

if __name__ == "__main__":
    with muted_unless_first():
        main()
