"""Architectures to compare AiT with, each built from an `AiTConfig`: same image, patches, width, heads and depth."""

from examples.baselines.build import ARCHITECTURES, build_architecture, count_parameters


__all__ = ["ARCHITECTURES", "build_architecture", "count_parameters"]
