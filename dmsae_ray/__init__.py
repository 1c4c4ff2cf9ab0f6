"""Distilled Matryoshka SAEs (arXiv 2512.24975) at cluster scale: which SAE features are stable?"""

__version__ = "0.1.0"
