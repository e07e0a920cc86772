"""Benchmarks: ratios measured side by side in one run, with the machine's limit beside them. Not in the wheel."""
