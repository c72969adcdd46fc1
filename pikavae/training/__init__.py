"""Train an autoencoder on a prepared set: losses, optimizers, exact state, and the loop that writes snapshots."""
