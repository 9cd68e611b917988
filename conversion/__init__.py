"""Scripts that turn other checkpoints into AiT checkpoints. Not part of the installed package."""
