"""Measures a model's scores on a set of pictures, beside baselines and codecs."""
