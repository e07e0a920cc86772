"""Weights of ``sightline-mini``, the recipe that makes them, and the study that chose it."""
