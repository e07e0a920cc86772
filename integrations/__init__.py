"""Adapters for other libraries, one module for each. Most need the extra of the same name."""
