"""Architectures to compare AiT with, each built from an `AiTConfig`: same image, patches, width, heads and depth."""
