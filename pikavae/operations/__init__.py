"""Offer the use cases that the terminal and the Prefect tasks call. Each works without Prefect."""

from pikavae.data.news.judge import Amount, Limits
from pikavae.evaluation.pages.report_page import PAGE_NAME as REPORT_PAGE
from pikavae.evaluation.report.report import Report
from pikavae.notify.addresses import AddressState, address_states, check_recipients, send_test
from pikavae.notify.running import attempt, record_crash
from pikavae.notify.telling import begin_notifying, notify, notifying, verify_and_tell, watch
from pikavae.operations.champion.fresh_pictures import check_settings, settle_watch
from pikavae.operations.champion.promotion import (
    Promoted,
    approve,
    current_rules,
    history,
    promote,
    rollback,
    set_rules,
    status_of,
    verdict_lines,
    who_set_rules,
)
from pikavae.operations.champion.registered import Listed, registered_version, registered_versions
from pikavae.operations.champion.standing import find_missing_standings, find_standing
from pikavae.operations.champion.watching import watch_champion
from pikavae.operations.resolving.resolve import (
    ResolvedModel,
    config_of_model,
    model_to_export,
    model_to_import,
    model_to_register,
    number_of,
    resolve,
    starting_weights,
)
from pikavae.operations.running.new_data import NewDataRule, Polled, check_new_data, retrain_on_new_data
from pikavae.operations.running.pipeline import evaluate, prepare, register, run, train
from pikavae.operations.running.planning import Retraining, plan, plan_retraining
from pikavae.operations.running.scheduling import settle
from pikavae.operations.running.training_view import Moment, TrainingView
from pikavae.operations.stages.accounting import Account, account_of
from pikavae.operations.stages.describing import (
    data_lines,
    data_markdown,
    data_summary,
    result_markdown,
    summary,
)
from pikavae.operations.stages.keys import Plan
from pikavae.operations.stages.lineage import Link, line_of, lineage
from pikavae.operations.stages.naming import run_name
from pikavae.operations.stages.results import Evaluated, Prepared, Registered, Trained
from pikavae.operations.sweeps.page import short_names, state_text, value_text
from pikavae.operations.sweeps.plan import Plan as SweepPlan
from pikavae.operations.sweeps.plan import Swept
from pikavae.operations.sweeps.run import sweep
from pikavae.operations.sweeps.space import make_space
from pikavae.operations.upkeep.housekeeping import Housekeeping, housekeeping
from pikavae.operations.upkeep.retention import Removed, prune
from pikavae.operations.upkeep.state_folder import (
    Check,
    Relocated,
    doctor,
    mlflow_page,
    relocate,
    serve_mlflow,
    start_mlflow,
)
from pikavae.operations.using.comparing import Beside, Compared, beside, compare_models
from pikavae.operations.using.exchange import export_model, export_target, import_model
from pikavae.operations.using.exported_files import tools_note
from pikavae.operations.using.half_safe import HalfSafe, half_safe
from pikavae.operations.using.models import evaluate_model, find_or_register, list_models, register_model
from pikavae.operations.using.pictures import encode, interpolate, reconstruct, sample
from pikavae.production.changes.repair import Repaired, repair_production
from pikavae.production.changes.signatures import sign_production
from pikavae.production.changes.verify import Verified
from pikavae.production.judgements.standing import Standing, expect_standing
from pikavae.production.judgements.watches import Watch
from pikavae.production.packages.signing import make_key
from pikavae.production.record.identity import identity_of, through_prefect
from pikavae.production.record.rules import Rules
from pikavae.tracker.client import Workspace
from pikavae.tracker.labels import Labels, read_labels
from pikavae.tracker.lost_runs import close_lost_runs

__all__ = [
    "REPORT_PAGE",
    "Account",
    "AddressState",
    "Amount",
    "Beside",
    "Check",
    "Compared",
    "Evaluated",
    "HalfSafe",
    "Housekeeping",
    "Labels",
    "Limits",
    "Link",
    "Listed",
    "Moment",
    "NewDataRule",
    "Plan",
    "Polled",
    "Prepared",
    "Promoted",
    "Registered",
    "Relocated",
    "Removed",
    "Repaired",
    "Report",
    "ResolvedModel",
    "Retraining",
    "Rules",
    "Standing",
    "SweepPlan",
    "Swept",
    "Trained",
    "TrainingView",
    "Verified",
    "Watch",
    "Workspace",
    "account_of",
    "address_states",
    "approve",
    "attempt",
    "begin_notifying",
    "beside",
    "check_new_data",
    "check_recipients",
    "check_settings",
    "close_lost_runs",
    "compare_models",
    "config_of_model",
    "current_rules",
    "data_lines",
    "data_markdown",
    "data_summary",
    "doctor",
    "encode",
    "evaluate",
    "evaluate_model",
    "expect_standing",
    "export_model",
    "export_target",
    "find_missing_standings",
    "find_or_register",
    "find_standing",
    "half_safe",
    "history",
    "housekeeping",
    "identity_of",
    "import_model",
    "interpolate",
    "line_of",
    "lineage",
    "list_models",
    "make_key",
    "make_space",
    "mlflow_page",
    "model_to_export",
    "model_to_import",
    "model_to_register",
    "notify",
    "notifying",
    "number_of",
    "plan",
    "plan_retraining",
    "prepare",
    "promote",
    "prune",
    "read_labels",
    "reconstruct",
    "record_crash",
    "register",
    "register_model",
    "registered_version",
    "registered_versions",
    "relocate",
    "repair_production",
    "resolve",
    "result_markdown",
    "retrain_on_new_data",
    "rollback",
    "run",
    "run_name",
    "sample",
    "send_test",
    "serve_mlflow",
    "set_rules",
    "settle",
    "settle_watch",
    "short_names",
    "sign_production",
    "start_mlflow",
    "starting_weights",
    "state_text",
    "status_of",
    "summary",
    "sweep",
    "through_prefect",
    "tools_note",
    "train",
    "value_text",
    "verdict_lines",
    "verify_and_tell",
    "watch",
    "watch_champion",
    "who_set_rules",
]
