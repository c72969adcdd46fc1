"""Studies what the scores do not show: precision, sizes, smoothness, latents."""
