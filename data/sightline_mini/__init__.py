"""Weights of ``sightline-mini``."""
