# zscgan-convert on NVIDIA's PyTorch image. The image's PyTorch, torchvision and TensorRT stay: docs/docker.md says how.
ARG IMAGE=nvcr.io/nvidia/pytorch:26.09-py3
FROM ${IMAGE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/zscgan-convert

# The image names its own constraints in PIP_CONSTRAINT. Those of what must not change are written down here as well,
# with the versions that are installed, so that pip fails where it would have to replace one.
RUN python -m pip list --format=freeze | grep -E '^(torch|torchvision|triton|tensorrt[a-z0-9_-]*|numpy)==' > kept.txt

COPY . source
RUN python -m pip install --no-cache-dir --constraint kept.txt ./source && rm -r source

# Each line of kept.txt is still installed, and an engine builds and runs. The GPU is absent while an image is built.
RUN python -m pip list --format=freeze > installed.txt && ! grep --invert-match --line-regexp --fixed-strings --file=installed.txt kept.txt
RUN zscgan-doctor

# Caches of whoever runs the image with --user; the work is mounted here.
ENV HOME=/tmp
WORKDIR /workspace
