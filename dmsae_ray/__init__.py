"""Distilled Matryoshka SAEs (arXiv 2512.24975) at cluster scale: find the features that always come back."""

__version__ = "0.1.0"
