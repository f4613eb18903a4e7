"""Samples as pictures."""

import pytest
import torch

from calibrators.data.input_spec import ORDERS, PRESETS, ChannelOrder, InputSpec
from calibrators.zscgan.sample_sheet import tile_from_sample


@pytest.mark.parametrize("order", ORDERS)
def test_red_is_shown_as_red_in_whatever_order_the_network_takes_it(order: ChannelOrder) -> None:
    spec = InputSpec((3, 64, 64), *PRESETS["imagenet"].for_channels(3, order), order)
    red = spec.high[0 if order == "rgb" else 2]
    sample = torch.tensor(spec.low).view(3, 1, 1).repeat(1, 64, 64)
    sample[0 if order == "rgb" else 2] = red
    assert tile_from_sample(sample, spec).getpixel((5, 5)) == (255, 0, 0)
