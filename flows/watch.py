"""Watch the champion: by the terminal, by a schedule, and as a deployment."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.absolute import refuse_relative_settings
from flows.notifying import notifying_flow, tell_end
from pikavae import operations
from pikavae.operations import Watch
from pikavae.tracker.tags import FLOW_RUN_NAME_TAG, FLOW_RUN_TAG, FLOW_RUN_URL_TAG
from pikavae.tracker.ui import ui_base, ui_url


@flow(
    name="evaluate-champion",
    flow_run_name="evaluate champion",
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def evaluate_champion(
    source: str | None = None,
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
    settings: dict[str, Any] | None = None,
) -> State[dict[str, Any]]:
    """Measure the champion on fresh pictures, beside its report, and see how the pictures differ from its own.

    The state says how it does, and people are told if it fell.

    Args:
        source: an absolute path of a folder or of files (a glob), or hub:ORG/NAME; by default what is new in the
            champion's own source.
        tolerance: by how much the metric that ranks models may be worse than in the report, in its unit.
        settings: other settings by dotted name, such as data.image_column, in place of the champion's own.

    Raises:
        UserError: a path is relative, there is no champion, or there are too few fresh pictures.
    """
    workspace = operations.Workspace.open()
    with notifying_flow(workspace, "evaluate-champion"):
        named = {**(settings or {}), **({} if source is None else {"data.source": source})}
        refuse_relative_settings(named)
        watch = operations.watch_champion(workspace, named, tolerance=tolerance, links=_links())
    create_markdown_artifact(_markdown(workspace, watch), key="champion-watched")
    fell = "the champion fell: " if watch.fell else ""
    return Completed(message=f"{fell}version {watch.version}: {watch.line}", data=watch.content())


def _links() -> dict[str, str]:
    if not flow_run.id:
        return {}
    url = str(flow_run.ui_url)
    links = {FLOW_RUN_TAG: str(flow_run.id), FLOW_RUN_NAME_TAG: str(flow_run.name)}
    return {**links, FLOW_RUN_URL_TAG: url} if url.startswith("http") else links


def _markdown(workspace: operations.Workspace, watch: Watch) -> str:
    base = ui_base(workspace)
    page = f"`{workspace.home / watch.page}`"
    if base:
        page = f"[open in MLflow]({ui_url(base, watch.experiment_id, watch.run_id, 'artifacts/page.html')})"
    head = f"**Version {watch.version} of {watch.model}{' fell' if watch.fell else ''}**: {watch.line}."
    return "\n".join(
        [head, "", *(f"- {one}" for one in watch.findings[1:]), f"- Pictures: `{watch.source}`", f"- Page: {page}"]
    )
