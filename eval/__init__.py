"""Evaluation: judged collections, runs, metrics."""
