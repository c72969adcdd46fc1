"""Write the part of a model card that says how the model is loaded and used."""

from __future__ import annotations

from pikavae.config import Config
from pikavae.model.sizes import KL, KL_OF_FLUX2
from pikavae.model.tiny_sizes import TINY

PADS = {"reflect": "ReflectionPad2d", "replicate": "ReplicationPad2d", "circular": "CircularPad2d"}
"""PyTorch's modules for the paddings that diffusers does not know."""
PLAIN = """\
from diffusers import {kind}

vae = {kind}.from_pretrained("path/to/this/folder").eval()"""
PADDED = """\
import torch
from diffusers import {kind}

vae = {kind}.from_pretrained("path/to/this/folder").eval()
for layer in vae.modules():
    if isinstance(layer, torch.nn.Conv2d) and layer.padding == (1, 1):
        layer.padding_mode = "{padding}"
for block in vae.encoder.down_blocks:
    for down in block.downsamplers or []:  # these pad by themselves: one cell, at the right and at the bottom
        down.padding, down.conv = 1, torch.nn.Sequential(torch.nn.{pad}((0, 1, 0, 1)), down.conv)"""
"""How diffusers loads a model of another padding than zeros."""

NORMED = """\
import torch
from diffusers import {kind}
from safetensors.torch import load_file

vae = {kind}.from_pretrained("path/to/this/folder").eval()
weights = load_file("path/to/this/folder/diffusion_pytorch_model.safetensors")
for name in [name.removesuffix(".pool.0.weight") for name in weights if name.endswith(".pool.0.weight")]:
    block, (inner, outer) = vae.get_submodule(name), weights[f"{{name}}.pool.0.weight"].shape[:2]
    before, after = (torch.nn.Conv2d(*pair, 1, bias=False) for pair in ((outer, inner), (inner, outer)))
    block.pool = torch.nn.Sequential(before, torch.nn.GroupNorm(4, inner), torch.nn.ReLU(), after)
    block.register_forward_pre_hook(lambda block, inputs: inputs[0] + block.pool(inputs[0]))
vae.load_state_dict(weights)"""
"""How diffusers loads a tiny model with norms in the blocks beside the latent."""


def class_of(config: Config) -> str:
    """Return the name of diffusers' class for a model of these sizes."""
    if config.model.kind == "tiny":
        return TINY
    return KL_OF_FLUX2 if config.model.latent_norm else KL


def use_of(config: Config) -> str:
    """Return code that loads and uses the model in diffusers, and commands that do it in pikavae, as Markdown."""
    factor, padding = config.model.downsampling_factor, config.model.padding
    lines = NORMED if config.model.mid_block_norm else PLAIN if padding == "zeros" else PADDED
    loading = lines.format(kind=class_of(config), padding=padding, pad=PADS.get(padding))
    latents = "latents" if config.model.kind == "tiny" else "latent_dist.mode()"
    shape = f"(B, {config.model.image_channels}, H, W)"
    return f"""\
```python
{loading}
latents = vae.encode(images).{latents}  # images: {shape} float32 in [-1, 1], {factor} divides H and W
reconstructions = vae.decode(latents).sample
```

```
pikavae reconstruct path/to/this/folder picture.png --out reconstructions
pikavae import path/to/this/folder
```"""
