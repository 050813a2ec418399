"""Engines of TensorRT and TensorRT-RTX: built anywhere, cached, checked on the device, run."""
