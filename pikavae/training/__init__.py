"""Losses, optimizers, exact state, and the loop that turns a prepared set into snapshots."""
