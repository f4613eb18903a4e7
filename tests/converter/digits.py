"""The digits example as the command line takes it."""

from pathlib import Path

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL = [str(DIGITS / "digits.pth"), "--arch", f"{DIGITS / 'model.py'}:digits_resnet"]
INPUT = ["--input-shape", "1x8x8", "--mean", "0.305", "--std", "0.376"]
