#!/usr/bin/env bash
# What MODEL may be, a command for each. Run it in this repository; torchvision downloads the weights of the first.
#
#     examples/three_models.sh [FOLDER]
set -euo pipefail
out="${1:-out}"

# A name of torchvision, or timm:NAME of timm, with the library's weights, input size and normalisation.
zscgan-convert resnet18 --int8 -o "$out/resnet18"

# Your checkpoint: --arch names the function that builds the network, where its tensors don't tell it.
zscgan-convert examples/digits/digits.pth --arch examples/digits/model.py:digits_resnet \
    --input-shape 1x8x8 --mean 0.305 --std 0.376 --int8 -o "$out/digits"

# Your ONNX file, here the one that the command before wrote.
zscgan-convert "$out/digits/model.fp32.onnx" --mean 0.305 --std 0.376 --int8 -o "$out/digits_onnx"
