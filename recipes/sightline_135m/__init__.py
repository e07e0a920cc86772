"""The recipe that makes ``sightline-135m``."""
