"""Foveate: Vision Transformers on Triton Inference Server that spend tokens where the SLO allows.

Importing this package is cheap: torch is imported only by the modules that compute.
"""

__version__ = "0.1.0"
