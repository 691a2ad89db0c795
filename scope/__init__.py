"""SCOPE: key/value-cache compression for long generation. The library; it imports neither hydra nor wandb."""

__version__ = "0.1.0"
