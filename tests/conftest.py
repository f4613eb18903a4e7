"""Shared test set-up: few threads, so that a run on a small machine is steady."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command does, before OpenMP is loaded

import torch

torch.set_num_threads(2)
