"""The recipe that makes ``sightline-mini``, and the study that chose it."""
