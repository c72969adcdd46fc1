"""Loads a model by its address as a consumer would, and uses it. The smoke test runs this file in a fresh process.

If diffusers is installed, it must make the same pictures from the same files. pikavae does not import this module, and
this module imports nothing of pikavae. Arguments: the model's address and an empty folder, which receives the
downloaded files and, on success, `facts.json`.
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

SIZES = ((16, 16), (24, 21))  # small, because a full-size model takes a second for a thousand pixels on a CPU
SNAPSHOT_FOLDER = "artifacts/snapshot"
BATCH_SIZES = (1, 2)
TINY = "AutoencoderTiny"
SAME_AGAIN = 1e-4
SAME_IN_A_BATCH = 1e-2  # a GPU may choose another algorithm for another batch size
SAME_IN_DIFFUSERS = 1e-2  # attention has another memory layout in each, so convolutions round differently


def check(condition: bool, complaint: str) -> None:
    """End the process with a complaint, as its last line, unless `condition` holds."""
    if not condition:
        sys.exit(complaint)


def use(model: mlflow.pyfunc.PyFuncModel, channels: int = 3) -> dict[str, np.ndarray]:
    """Reconstruct each size alone, in a batch, and in the same batch again; return the batch's result by its name."""
    outputs = {}
    for height, width in SIZES:
        one, several = (pictures(count, height, width, channels) for count in BATCH_SIZES)
        what = f"{len(several)} pictures of {height}x{width}"
        together, again, alone = (np.asarray(model.predict(images)) for images in (several, several, one))
        check(together.shape == several.shape, f"{what} came back as {together.shape}")
        check(alone.shape == one.shape, f"one picture of {height}x{width} came back as {alone.shape}")
        check(bool(np.isfinite(together).all()), f"{what} came back with values that are not finite")
        check(bool(np.abs(together).max() <= 1), f"{what} came back outside [-1, 1]")
        check(np.allclose(together, again, rtol=0, atol=SAME_AGAIN), f"{what} came back otherwise the second time")
        same = np.allclose(together[: len(alone)], alone, rtol=0, atol=SAME_IN_A_BATCH)
        check(same, f"the first of {what} came back otherwise than alone")
        outputs[what] = together
    return outputs


def compare_with_diffusers(snapshot: Path, outputs: dict[str, np.ndarray]) -> float | None:
    """Return the largest difference from what diffusers makes of the same files; None if it cannot be asked.

    It cannot if it is not installed, or is older than the class that `config.json` names.
    """
    if importlib.util.find_spec("diffusers") is None:
        return None
    import diffusers

    kind = json.loads((snapshot / "config.json").read_text(encoding="utf-8")).get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderKLFlux2", TINY) or not hasattr(diffusers, kind):
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = getattr(diffusers, kind)
    model = known.from_pretrained(snapshot, local_files_only=True, use_safetensors=True).to(device).eval()
    pad_as_stated(model, json.loads((snapshot / "config.json").read_text(encoding="utf-8")))
    if kind == TINY:
        add_norms(model, snapshot / "diffusion_pytorch_model.safetensors")
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    largest = 0.0
    for what, expected in outputs.items():
        count, channels, height, width = expected.shape
        images = torch.from_numpy(pictures(count, height, width, channels))
        images = F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")
        with torch.inference_mode():
            encoded = model.encode(images.to(device))
            decoded = model.decode(encoded.latents if kind == TINY else encoded.latent_dist.mode()).sample
        got = decoded.clamp(-1, 1)[:, :, :height, :width].cpu().numpy()
        difference = float(np.abs(got - expected).max())
        check(difference <= SAME_IN_DIFFUSERS, f"{what} differ by {difference:.3g} from those of diffusers")
        largest = max(largest, difference)
    return largest


def pad_as_stated(model: Any, sizes: dict[str, Any]) -> None:
    """Make diffusers' model pad as `config.json` states, which diffusers does not read."""
    pads = {
        "reflect": torch.nn.ReflectionPad2d,
        "replicate": torch.nn.ReplicationPad2d,
        "circular": torch.nn.CircularPad2d,
    }
    if (padding := sizes.get("padding_mode", "zeros")) == "zeros":
        return
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.padding == (1, 1):
            layer.padding_mode = padding
    for block in model.encoder.down_blocks:
        for down in block.downsamplers or []:
            down.padding, down.conv = 1, torch.nn.Sequential(pads[padding]((0, 1, 0, 1)), down.conv)


def add_norms(model: Any, weights: Path) -> None:
    """Give diffusers' tiny model the norms of the blocks beside the latent that are in its weights."""
    state = load_file(weights)
    ending = ".pool.0.weight"
    for name in [name.removesuffix(ending) for name in state if name.endswith(ending)]:
        block, (inner, outer) = model.get_submodule(name), state[name + ending].shape[:2]
        before, after = (torch.nn.Conv2d(*pair, 1, bias=False) for pair in ((outer, inner), (inner, outer)))
        block.pool = torch.nn.Sequential(before, torch.nn.GroupNorm(4, inner), torch.nn.ReLU(), after).to(model.device)
        block.register_forward_pre_hook(lambda block, inputs: inputs[0] + block.pool(inputs[0]))
        block.load_state_dict(
            {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        )


def pictures(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return fixed noise (count, channels, height, width) float32 in [-1, 1]; the first is the same for any count."""
    return np.random.default_rng(0).uniform(-1, 1, (count, channels, height, width)).astype(np.float32)


def signed_model(address: str, folder: Path, keys: list[Path]) -> Path:
    """Download a model's files into an empty folder and check them before any of their code runs; return their folder.

    Args:
        address: `models:/pikavae-production@champion`, or with `/3` in place of the alias.
        folder: receives the files.
        keys: files of public keys, one of which must vouch for exactly these files.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing, verifying

    name, _, alias = address.removeprefix("models:/").partition("@")
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(*name.split("/"))
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(folder)))
    names = [file.path for file in client.list_artifacts(version.run_id, "signatures")]
    signatures = folder.with_name(f"{folder.name}-signatures")
    signatures.mkdir()
    reason = "no trusted key has signed it"
    for path in (Path(client.download_artifacts(version.run_id, one, str(signatures))) for one in names):
        for key in keys:
            hashed = hashing.Config().set_ignored_paths(paths=["registered_model_meta"], ignore_git_paths=False)
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(hashed)
            try:
                verifier.verify(files, path)
            except (InvalidSignature, ValueError, LookupError, TypeError) as error:
                if "Key mismatch" not in str(error):
                    reason = f"its signature is not of these files ({' '.join(str(error).split())[:80]})"
            else:
                return files
    sys.exit(f"{address}: refused: {reason}")


def trusted_keys() -> list[Path]:
    """Return the files of public keys that PIKAVAE_TRUSTED_KEYS names: files, and folders of them, with `:` between."""
    paths = [
        Path(named).expanduser() for named in os.environ.get("PIKAVAE_TRUSTED_KEYS", "").split(os.pathsep) if named
    ]
    return [file for path in paths for file in (sorted(path.glob("*.pub")) if path.is_dir() else [path])]


if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    cast(dict[str, Any], sys.modules)["pikavae"] = None  # importing it raises an error
    files = folder / "model"
    files.mkdir()
    sys.pycache_prefix = str(folder / "compiled")  # Python ignores any compiled code beside the files
    if keys := trusted_keys():
        loaded = mlflow.pyfunc.load_model(str(signed_model(address, files, keys)))
    else:
        loaded = mlflow.pyfunc.load_model(address, dst_path=str(files))
    sys.pycache_prefix = None
    sizes = json.loads((files / SNAPSHOT_FOLDER / "config.json").read_text(encoding="utf-8"))
    outputs = use(loaded, sizes.get("in_channels", 3))
    facts: dict[str, object] = {
        "means": {what: float(output.mean()) for what, output in outputs.items()},
        "differs_from_diffusers_by": compare_with_diffusers(files / SNAPSHOT_FOLDER, outputs),
        "torch": torch.__version__,
        "mlflow": mlflow.__version__,
        "python": sys.version.split()[0],
    }
    facts["manifest"] = {
        path.relative_to(files).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files.rglob("*"))
        if path.is_file() and path != files / "registered_model_meta"
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
