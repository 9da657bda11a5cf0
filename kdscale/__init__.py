"""kdscale: turn an ensemble of neural networks into one model that can be served."""

__version__ = "0.1.0"
