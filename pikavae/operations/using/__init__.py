"""Use a model: measure, compare, import, export, register it, and make pictures with it."""
