"""Biases of INT8 layers, which engines on a CPU hold as int32."""

LARGEST_BIAS = 2.0**30
"""Steps of ``s_x * s_w`` that a bias may have: half of int32's range leaves the sum of the products room."""
