"""Latents from Prefect's form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.operations import config_of_model, encode


@flow(name="latents", flow_run_name="latents of {model}", persist_result=False)
def latents(
    model: Annotated[str, Field(min_length=1)],
    config: Config | None = None,
    out: str | None = None,
    logvar: bool = False,
) -> dict[str, Any]:
    """Encode the prepared pictures with a model, for a latent-diffusion trainer.

    Args:
        model: a version number, champion, run:ID with @STEP or @best or neither, or a model folder.
        config: names the pictures; without one, those that the model was trained on.
        out: an absolute path for the folder of latents; without one it lies below PIKAVAE_HOME.
        logvar: store the posterior's log-variance as well.
    """
    folder = absolute(out)
    done = encode(model, config or config_of_model(model), folder, logvar=logvar)
    create_markdown_artifact(
        f"{done['num_images']} latents of `{model}` in `{done['path']}`; scaling factor {done['scaling_factor']:.6g}.",
        key="latents",
    )
    return done


def absolute(out: str | None) -> Path | None:
    """The folder that the form names, if it names one.

    Raises:
        UserError: the path is relative: a worker runs in a temporary folder, and what is written there is lost.
    """
    if out is None or not out.strip():
        return None
    folder = Path(out).expanduser()
    if not folder.is_absolute():
        raise UserError(f"out {out!r}: a worker runs in a temporary folder; give an absolute path or leave it empty")
    return folder
