"""Weights of ``sightline-135m``."""
