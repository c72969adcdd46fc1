"""Define the flow that encodes latents from Prefect's form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.absolute import refuse_relative_paths
from pikavae.config import Config
from pikavae.operations import Workspace, config_of_model, encode, resolve


@flow(name="latents", flow_run_name="latents of {model}", persist_result=False)
def latents(
    model: Annotated[str, Field(min_length=1)],
    config: Config | None = None,
    out: str | None = None,
    logvar: bool = False,
    precision: Literal["float32", "bf16"] = "float32",
) -> dict[str, Any]:
    """Encode the prepared pictures with a model, for a latent-diffusion trainer.

    Args:
        model: a version number, champion, run:ID with @STEP or @best or neither, or a model folder.
        config: names the pictures; by default those that the model was trained on.
        out: an absolute path for the folder of latents; by default a folder below PIKAVAE_HOME.
        logvar: also store the posterior's log-variance.
        precision: the format that the encoder computes in.

    Raises:
        UserError: a path is relative.
    """
    refuse_relative_paths(config, model=model, out=out)
    folder = Path(out) if out and out.strip() else None
    workspace = Workspace.open()
    config = config or config_of_model(workspace, model)
    done = encode(workspace, resolve(workspace, model, config), config, folder, logvar=logvar, precision=precision)
    create_markdown_artifact(
        f"{done['num_images']} latents of `{model}` in `{done['path']}`; scaling factor {done['scaling_factor']:.6g}.",
        key="latents",
    )
    return done
