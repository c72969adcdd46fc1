"""Finds how the pictures that come in differ from those that a model was trained on."""
