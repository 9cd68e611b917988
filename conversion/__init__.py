"""Scripts that turn other checkpoints into AiT checkpoints. Not part of the installed package."""

# First of all, because it quietens what transformers says on stderr when it is imported.
import examples.errors  # noqa: F401
