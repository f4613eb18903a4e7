"""``python -m converter`` is ``zscgan-convert``."""

from converter.cli import main

if __name__ == "__main__":
    main()
