"""Quantization-aware training without data: the folded network fine-tuned with fake quantizers in it."""
