"""A network with something random in it is refused as it is loaded."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from converter.errors import LoadError
from converter.load.determinism import refuse_random
from tests.converter.load.test_model import Tiny, load, saved

RANDOM = """
import torch
import torch.nn.functional as F
from tests.converter.load.test_model import Tiny

class Left(Tiny):
    def forward(self, x):
        return self.fc(F.dropout(torch.relu(self.bn(self.conv(x))).mean((2, 3))))
"""


def test_dropout_left_on(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(RANDOM)
    path = saved(Tiny().state_dict(), tmp_path / "net.pth")
    with pytest.raises(LoadError, match=r"answers differently to the same input.*training=self.training"):
        load(path, f"{tmp_path / 'nets.py'}:Left")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_random_torchscript(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mean((2, 3))) + torch.rand(x.shape[0], 5)

    torch.jit.script(Noisy()).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match="answers differently to the same input"):
        load(tmp_path / "net.pt")


def test_the_same_answers_pass() -> None:
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(48, 5))
    refuse_random(dropout.eval(), (3, 4, 4))
    refuse_random(lambda x: (x, "a word"), (3, 4, 4))
    with pytest.raises(LoadError, match="answers differently"):
        refuse_random(lambda x: (x, torch.rand(2)), (3, 4, 4))
    with pytest.raises(LoadError, match="answers differently"):
        refuse_random(dropout.train(), (3, 4, 4))
