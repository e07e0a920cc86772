"""Weights of ``sightline-mini-read``, and the recipe that makes them."""
