"""Backend ``tensorrt``: plans of TensorRT and TensorRT-RTX."""
