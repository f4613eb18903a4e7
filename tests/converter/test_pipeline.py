"""What holds for a conversion as a whole."""

from typing import Any

import pytest
from torch.backends import cuda, cudnn

from converter import pipeline
from converter.console import Console
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.options import ConvertOptions


def test_all_but_the_trainings_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def first_stage(*_given: Any) -> None:
        seen.append((cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic))
        raise OptionsError("enough")

    monkeypatch.setattr(pipeline, "job_from_options", first_stage)
    with pytest.raises(OptionsError, match="enough"):
        pipeline.convert(ConvertOptions(ModelOptions("model.pth")), Console(), "")
    assert seen == [(False, False, True)]
    assert cudnn.allow_tf32
