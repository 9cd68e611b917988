"""Scripts that train, measure and share AiT. Not part of the installed package."""
