"""Sightline: search that reads every candidate at once, and shows what it looked at."""
