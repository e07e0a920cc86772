"""Data that ships with Sightline: the demo's judged questions."""
