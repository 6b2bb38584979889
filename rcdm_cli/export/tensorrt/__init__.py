"""Building of TensorRT plans."""
