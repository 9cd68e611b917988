"""What `examples.benchmark` measures, and how it shows it."""
