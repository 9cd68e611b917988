"""The parts of a comparison: what is run, how it is run, and what the models cost."""
