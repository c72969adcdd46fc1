"""pikavae: train, measure and register the autoencoder of a latent diffusion model."""

__version__ = "0.1.0"
