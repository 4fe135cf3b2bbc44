"""Reproducible, signed evidence for TensorRT bug reports."""

__version__ = "0.1.0"
