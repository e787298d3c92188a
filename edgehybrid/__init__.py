"""EdgeHybrid: quantize, check and measure hybrid CNN-Transformer vision models for embedded NVIDIA GPUs."""

__version__ = "0.1.0"
