"""Train a small latent diffusion model on the latents that `pikavae encode` stored, and draw pictures from captions.

    pikavae run demo
    pikavae encode 1 --data.sprites-count 6000 --out latents
    python -m examples.diffusion latents --model 1 --out drawn

Read `model.py` first, then `training.py`. `latents.py` reads what `encode` stored, `measuring.py` says how good the
drawings are, and `__main__.py` is the command.
"""
