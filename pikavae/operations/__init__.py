"""The use cases: what the terminal and the Prefect tasks call. Each works without Prefect."""

from pikavae.evaluation.page import PAGE_NAME as REPORT_PAGE
from pikavae.home import home
from pikavae.operations.beside import Beside, evaluate_beside
from pikavae.operations.comparing import Compared, compare_models
from pikavae.operations.doctor import Check, doctor
from pikavae.operations.encoding import encode
from pikavae.operations.exchange import export_model, import_model
from pikavae.operations.exploring import interpolate, sample
from pikavae.operations.imported import starting_weights
from pikavae.operations.lineage import Link, line_of, lineage
from pikavae.operations.models import (
    config_of_model,
    evaluate_model,
    list_models,
    load_report,
    reconstruct,
    register_model,
    show_model,
)
from pikavae.operations.pipeline import evaluate, prepare, register, run, train
from pikavae.operations.planning import plan
from pikavae.operations.promotion import (
    Promoted,
    approve,
    history,
    promote,
    repair,
    rollback,
    standing_of,
    verdict_lines,
    verify,
)
from pikavae.operations.relocating import Relocated, relocate
from pikavae.operations.results import Evaluated, Prepared, Registered, Trained
from pikavae.operations.retention import Removed, prune
from pikavae.operations.retraining import Retraining, plan_retraining
from pikavae.operations.summary import data_markdown, result_markdown, summary
from pikavae.operations.ui import mlflow_page, serve_mlflow, start_mlflow
from pikavae.registry.mending import Repaired
from pikavae.registry.verification import Verified
from pikavae.stages import Plan

__all__ = [
    "REPORT_PAGE",
    "Beside",
    "Check",
    "Compared",
    "Evaluated",
    "Link",
    "Plan",
    "Prepared",
    "Promoted",
    "Registered",
    "Relocated",
    "Removed",
    "Repaired",
    "Retraining",
    "Trained",
    "Verified",
    "approve",
    "compare_models",
    "config_of_model",
    "data_markdown",
    "doctor",
    "encode",
    "evaluate",
    "evaluate_beside",
    "evaluate_model",
    "export_model",
    "history",
    "home",
    "import_model",
    "interpolate",
    "line_of",
    "lineage",
    "list_models",
    "load_report",
    "mlflow_page",
    "plan",
    "plan_retraining",
    "prepare",
    "promote",
    "prune",
    "reconstruct",
    "register",
    "register_model",
    "relocate",
    "repair",
    "result_markdown",
    "rollback",
    "run",
    "sample",
    "serve_mlflow",
    "show_model",
    "standing_of",
    "start_mlflow",
    "starting_weights",
    "summary",
    "train",
    "verdict_lines",
    "verify",
]
