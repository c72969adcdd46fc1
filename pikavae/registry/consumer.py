"""What the smoke test runs in its fresh process: loads a model by its address as a consumer would, and uses it.

It is not imported by pikavae, and imports nothing of it. Arguments: the model's address, and an empty folder, which
gets the downloaded files and, when all is well, `facts.json`.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import torch

SIZES = ((64, 64), (40, 72))
BATCH_SIZES = (1, 3)
SAME_AGAIN = 1e-4
SAME_IN_A_BATCH = 1e-2  # a GPU may choose another algorithm for another batch size


def check(condition: bool, complaint: str) -> None:
    """End the process with a complaint, as its last line, unless `condition` holds."""
    if not condition:
        sys.exit(complaint)


def use(model: mlflow.pyfunc.PyFuncModel) -> dict[str, object]:
    """Encode and decode each size alone and in a batch; what came out."""
    outputs = {}
    for height, width in SIZES:
        images = np.random.default_rng(0).uniform(-1, 1, (max(BATCH_SIZES), 3, height, width)).astype(np.float32)
        alone = None
        for count in BATCH_SIZES:
            what = f"{count} pictures of {height}x{width}"
            first, again = (np.asarray(model.predict(images[:count])) for _ in range(2))
            check(first.shape == images[:count].shape, f"{what} came back as {first.shape}")
            check(bool(np.isfinite(first).all()), f"{what} came back with values that are not finite")
            check(bool(np.abs(first).max() <= 1), f"{what} came back outside [-1, 1]")
            check(np.allclose(first, again, rtol=0, atol=SAME_AGAIN), f"{what} came back otherwise the second time")
            alone = first[0] if alone is None else alone
            check(
                np.allclose(first[0], alone, rtol=0, atol=SAME_IN_A_BATCH),
                f"the first of {what} came back otherwise than alone",
            )
            outputs[what] = float(first.mean())
    return {
        "means": outputs,
        "torch": torch.__version__,
        "mlflow": mlflow.__version__,
        "python": sys.version.split()[0],
    }


if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    cast(dict[str, Any], sys.modules)["pikavae"] = None  # whoever imports it is told that there is none
    files = folder / "model"
    files.mkdir()
    facts = use(mlflow.pyfunc.load_model(address, dst_path=str(files)))
    facts["manifest"] = {
        path.relative_to(files).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__" and path != files / "registered_model_meta"
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
