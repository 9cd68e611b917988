"""Data sets: which there are, how they are loaded or generated, and the way from an image to `pixel_values`."""
