"""What `examples.export` writes: graphs, quantized models, and the folders around them."""
