"""Shared test set-up: few threads, so that a run on a small machine is steady."""

import torch

torch.set_num_threads(2)
