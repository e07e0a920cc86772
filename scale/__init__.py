"""Builds in several processes, on one machine or many."""

from .ray_reading import RayReading

__all__ = ["RayReading"]
