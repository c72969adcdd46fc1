"""Sweeps: one training for each combination of settings, ranked by a metric, with a study that can be resumed."""
