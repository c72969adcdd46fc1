"""Run the four stages. Each takes what the previous ones returned, and reuses its earlier result if there is one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from pikavae.config import Config
from pikavae.data.files.left_out import missing_line
from pikavae.data.prepare import PAGE_NAME
from pikavae.data.prepare import prepare as prepare_data
from pikavae.data.prepared.dataset import PictureSet, PreparedSet
from pikavae.errors import PrunedError, UserError
from pikavae.evaluation.evaluate import measure
from pikavae.evaluation.report.model_card import CARD_NAME
from pikavae.features.published import VGG16
from pikavae.notify.running import note_run
from pikavae.operations.resolving.resolve import ResolvedModel, starting_weights
from pikavae.operations.resolving.teaching import teacher_of
from pikavae.operations.running.supervision import StopRule, train_apart
from pikavae.operations.running.training_view import TrainingView
from pikavae.operations.stages import keys
from pikavae.operations.stages.describing import (
    EVALUATION,
    EVALUATION_FOLDER,
    about_of,
    card_of,
    evaluation_note,
    report_tags,
    run_note,
    summary,
    version_metrics,
    version_note,
)
from pikavae.operations.stages.naming import label_earlier, run_name
from pikavae.operations.stages.opening import open_run
from pikavae.operations.stages.results import (
    STAGE_NAME,
    Evaluated,
    Prepared,
    Registered,
    StageRecord,
    Trained,
    find_evaluated,
    find_trained,
    registration_path,
    report_hashes,
)
from pikavae.operations.stages.runtime import (
    CHECKOUT,
    choose_device,
    count_processes,
    find_gaps,
    for_this_machine,
    recording,
    repair_records,
    threads_of,
    use_threads,
)
from pikavae.process.energy import cards_of
from pikavae.process.meter import metered
from pikavae.registry import versions
from pikavae.tracker.checkout import git_tags
from pikavae.tracker.client import Workspace
from pikavae.tracker.delivery import Delivery, moments
from pikavae.tracker.labels import Labels
from pikavae.tracker.queries import get_run
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import (
    BEST_STEP_TAG,
    CONFIG_HASH_TAG,
    EVALUATE_KEY_TAG,
    EVALUATED_TAG,
    FILMSTRIP,
    FINGERPRINT_TAG,
    FLOW_RUN_NAME_TAG,
    FLOW_RUN_TAG,
    PRUNED_TAG,
    REGISTER_KEY_TAG,
    REGISTERED_MODEL_TAG,
    RUN_TAG,
    SNAPSHOT_TAG,
    START_STEP_TAG,
    VERSION_TAG,
)
from pikavae.tracker.ui import ui_base, ui_url
from pikavae.training.worker import Job
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import exclusive, folder_atomically, sha256_of, write_atomically
from pikavae.workspace.records import Inputs
from pikavae.workspace.run_record import PrunedRecord, TeacherRecord, TrainingResult
from pikavae.workspace.runs import RunFolder
from pikavae.workspace.usage import usage_folder

logger = logging.getLogger(__name__)

FILMSTRIP_NAME = "filmstrip.png"


def prepare(
    workspace: Workspace,
    config: Config,
    progress: Callable[[int, int | None], None] | None = None,
    *,
    warn: bool = True,
) -> Prepared:
    """Prepare the pictures, or reuse a prepared set.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        progress: called with the number of finished pictures, and the total if it is known.
        warn: log the set's warnings.
    """
    began = time.monotonic()
    prepared_set, reused = prepare_data(config.data, workspace.home / "prepared", progress=progress)
    logger.info(
        "%s %s: %d training and %d validation pictures of %d px, %s",
        "reusing prepared set" if reused else "prepared",
        prepared_set.fingerprint,
        len(prepared_set.train),
        len(prepared_set.validation),
        config.data.image_size,
        missing_line(prepared_set.record),
    )
    for warning in prepared_set.record.warnings if warn else ():
        logger.warning("data: %s", warning)
    return Prepared(prepared_set, reused, time.monotonic() - began)


def train(
    workspace: Workspace,
    config: Config,
    prepared: Prepared,
    *,
    start: ResolvedModel | None,
    fresh: bool = False,
    links: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    watch: Callable[[TrainingView], AbstractContextManager[None]] | None = None,
    default_name: str | None = None,
    stop_rule: StopRule | None = None,
) -> Trained:
    """Train, resume an unfinished training of the same key, or reuse a finished one; one process at a time does so.

    A finished training that is shorter and otherwise equal is extended, if `find_extension` permits it. A run that is
    resumed or reused gets the labels that are given, and keeps its others.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        prepared: what `prepare` returned.
        start: the first weights, such as those that `training.start` names; None for new ones.
        fresh: train again even if the same was trained before.
        links: tags that point to where this attempt was started, such as `pikavae.flow_run_id`.
        labels: what the user calls the run.
        watch: returns a context that lasts while the training works, and may look at it.
        default_name: the name of a new run that nobody named; by default `run_name`.
        stop_rule: decides whether the training continues.

    Raises:
        PrunedError: `stop_rule` stopped the training. The run's record and its tags say so until it is resumed.
    """
    began, labels, links = time.monotonic(), labels or Labels(), links or {}
    name = labels.name or default_name or links.get(FLOW_RUN_NAME_TAG) or run_name(config, labels)
    config = for_this_machine(config)
    digest, teacher = start.digest if start else None, teacher_of(workspace, config)
    use_threads(config)
    inputs = keys.train_inputs(config, prepared.prepared_set.fingerprint, digest, teacher.inputs if teacher else None)
    key = keys.key_of(inputs)
    waiting = f"the same training (key {key}) is under way in another process; waiting for its result"
    with exclusive(workspace.home / "runs" / f"{key}.lock", waiting=waiting):
        repair_records(workspace, config, inputs)
        found = None if fresh else find_trained(workspace, key)
        if found is not None:
            logger.info("reusing run %s, which has trained this", found.run.run_id)
            note_run(found.run.run_id)
            label_earlier(workspace, config, found.run.run_id, labels)
            return found
        refuse_what_cannot_begin(config, start)
        run, log = open_run(workspace, config, prepared, inputs, labels, name, fresh=fresh)
        note_run(run.run_id)
        with recording(workspace, log):
            log.set_tags({**git_tags(CHECKOUT), **links})
            log.set_note(run_note(config, prepared.prepared_set, log, links, labels.preset))
            log.log_file(prepared.prepared_set.path / PAGE_NAME, "data")
            if flow_run_id := links.get(FLOW_RUN_TAG):
                log.add_attempt(flow_run_id)
            taught_by = teacher.record(workspace, config) if teacher else None
            if run.pruned is not None:
                log.remove_tag(PRUNED_TAG)
                run.note_pruned(None)
            try:
                pictures = prepared.prepared_set
                result = _train_in(workspace, config, pictures, run, log, start, taught_by, watch, stop_rule)
            except PrunedError as error:
                run.note_pruned(PrunedRecord(time=datetime.now(UTC).isoformat(), reason=str(error)))
                raise
        snapshot = run.path / "snapshots" / result.snapshot
        return Trained(run, result, snapshot, reused=False, seconds=time.monotonic() - began)


def refuse_what_cannot_begin(config: Config, start: ResolvedModel | None) -> None:
    """Refuse a training that lacks something, before anything is written for it.

    Raises:
        UserError: the decoder alone would be trained beside an untrained encoder, or VGG16's weights are missing.
    """
    if config.training.trainable == "decoder" and start is None:
        raise UserError(
            "training.trainable decoder: without training.start the encoder stays as random as it begins; name the "
            "weights in training.start, or set training.trainable to all"
        )
    if config.loss.perceptual_weight:
        VGG16.require(config.loss.perceptual_weights, "loss.perceptual_weights")


def evaluate(workspace: Workspace, config: Config, prepared: Prepared, trained: Trained) -> Evaluated:
    """Measure one of the run's snapshots on the validation pictures and log the scores, or reuse its report.

    The run's artifacts under `evaluation` and its description are those of the snapshot that its training ended with.
    The report of another snapshot has a folder of its own below, and is described only while the run has none.
    """
    began = time.monotonic()
    inputs = keys.evaluate_inputs(
        config,
        run_id=trained.run.run_id,
        model=runs.snapshot_digest(trained.snapshot),
        evaluation_set=prepared.prepared_set.validation.digest,
    )
    found = find_evaluated(workspace, keys.key_of(inputs))
    if found is not None and found.folder.name in _recorded_evaluations(workspace, trained.run.run_id):
        logger.info("reusing report %s", found.folder.name)
        return found
    log = RunLog.resume(workspace.client, trained.run.run_id)
    with recording(workspace, log):
        validation = prepared.prepared_set.validation
        shown = moments(trained.run.path, validation)
        done = report_on(workspace, config, validation, trained.snapshot, inputs, shown)
        # Measured again: the later point counts. A process that was killed here may have written it.
        log.log(log.without_last(version_metrics(done.report)), trained.step, again=True)
        folder = EVALUATION_FOLDER if trained.is_last else f"{EVALUATION_FOLDER}/{trained.snapshot.name}"
        for file in sorted(done.folder.iterdir()):
            log.log_file(file, folder)
        if trained.is_last or EVALUATION not in log.note():
            log.set_note(evaluation_note(log, done.report, folder))
        recorded = {done.folder.name, *_recorded_evaluations(workspace, trained.run.run_id)}
        log.flush()
        log.set_tags(
            {
                EVALUATED_TAG: ",".join(sorted(recorded)),
                **({EVALUATE_KEY_TAG: done.folder.name} if trained.is_last else {}),
            }
        )
    return replace(done, seconds=time.monotonic() - began)


def _recorded_evaluations(workspace: Workspace, run_id: str) -> set[str]:
    """Return the keys of the evaluations that a run has in MLflow with their files and scores."""
    found = get_run(workspace.client, run_id)
    tags = {} if found is None else found.tags
    return {key for tag in (EVALUATED_TAG, EVALUATE_KEY_TAG) for key in tags.get(tag, "").split(",") if key}


def register(
    workspace: Workspace, config: Config, prepared: Prepared, trained: Trained, evaluated: Evaluated
) -> Registered:
    """Register the run's snapshot as a candidate version, or reuse its version."""
    began = time.monotonic()
    digest = runs.snapshot_digest(trained.snapshot)
    inputs = keys.register_inputs(config, run_id=trained.run.run_id, model=digest, report=evaluated.folder.name)
    key, client = keys.key_of(inputs), workspace.client
    place = registration_path(trained.run, key)
    found = versions.find_version(client, config.registry.model_name, key)
    if found is not None and place.is_file():  # otherwise it was killed before it wrote everything
        logger.info("reusing %s version %d", found.name, found.version)
        return Registered(found, reused=True)
    log = RunLog.resume(client, trained.run.run_id)
    with recording(workspace, log):
        version = versions.register(
            client,
            run_id=trained.run.run_id,
            snapshot=trained.snapshot,
            model_name=config.registry.model_name,
            image_size=config.data.image_size,
            step=trained.step,
            metrics=version_metrics(evaluated.report),
            tags={
                REGISTER_KEY_TAG: key,
                RUN_TAG: trained.run.run_id,
                FINGERPRINT_TAG: prepared.prepared_set.fingerprint,
                CONFIG_HASH_TAG: keys.key_of(config.flat()),
                SNAPSHOT_TAG: digest,
                **report_tags(evaluated, prepared),
                **git_tags(CHECKOUT),
            },
            description=version_note(trained, evaluated.report),
        )
        if trained.is_last or VERSION_TAG not in log.tags():
            log.set_tags({VERSION_TAG: str(version.version), REGISTERED_MODEL_TAG: version.name})
        record = StageRecord(key=key, inputs=inputs, version=version.version)
        write_atomically(place, record.to_json())
    return Registered(version, reused=False, seconds=time.monotonic() - began)


def run(workspace: Workspace, config: Config, *, fresh: bool = False, labels: Labels | None = None) -> dict[str, Any]:
    """Run the four stages in order, like the flow but without Prefect, and return the keys of `pikavae run --json`."""
    prepared = prepare(workspace, config)
    start = starting_weights(workspace, config)
    trained = train(workspace, config, prepared, start=start, fresh=fresh, labels=labels)
    evaluated = evaluate(workspace, config, prepared, trained)
    return summary(prepared, trained, evaluated, register(workspace, config, prepared, trained, evaluated))


def report_on(
    workspace: Workspace,
    config: Config,
    picture_set: PictureSet,
    snapshot: Path,
    inputs: Inputs,
    shown: Sequence[tuple[str, Tensor]] = (),
) -> Evaluated:
    """Measure a snapshot and write the report under its key; its page shows the moments of training in `shown`."""
    folder = workspace.home / "evaluations" / keys.key_of(inputs)
    with exclusive(folder.with_suffix(".lock")):
        if found := find_evaluated(workspace, folder.name):
            return found
        device = choose_device(config)
        used = usage_folder(workspace.home, inputs["run"])
        cards, num_gpus = cards_of(device.type, 1), int(device.type == "cuda")
        with (
            metered(used, "evaluate", cards=cards, num_gpus=num_gpus),
            folder_atomically(folder) as temporary,
        ):
            report = measure(
                read_snapshot(snapshot),
                picture_set,
                config.evaluation,
                temporary,
                device=device,
                provenance={"run": inputs["run"], "model": inputs["model"]},
                about=about_of(workspace, snapshot, shown),
            )
            name = f"run {inputs['run']}" if inputs["run"] else f"model {inputs['model']}"
            (temporary / CARD_NAME).write_text(card_of(workspace, snapshot, report, name), encoding="utf-8")
            stage = StageRecord(inputs=inputs, sha256=report_hashes(temporary))
            (temporary / STAGE_NAME).write_text(stage.to_json())
    return Evaluated(report, folder, reused=False)


def _train_in(
    workspace: Workspace,
    config: Config,
    prepared_set: PreparedSet,
    run: RunFolder,
    log: RunLog,
    start: ResolvedModel | None,
    teacher: TeacherRecord | None,
    watch: Callable[[TrainingView], AbstractContextManager[None]] | None,
    stop_rule: StopRule | None,
) -> TrainingResult:
    """Train in the run's folder, in a process of its own, and record the result once MLflow has everything."""
    device = choose_device(config).type
    processes = count_processes(config, device)
    threads = threads_of(config, processes, run.path / "checkpoints")
    job = Job(config, prepared_set.path, start.folder if start else None, device, threads, processes, teacher)
    find_gaps(run, log)
    validation, num_previews = prepared_set.validation, config.training.preview_images
    url = ui_url(base, log.experiment_id, log.run_id) if (base := ui_base(workspace)) else None
    view = TrainingView(run, validation, num_previews, name=log.name, url=url)
    watching = nullcontext() if watch is None else watch(view)
    with Delivery(workspace, run.path, log, validation, num_previews) as delivery, watching:
        result = train_apart(run.path, job, config.training.restarts, stop_rule)
        delivery.finish()
        filmstrip = delivery.filmstrip()
    filmstrip.save(content := BytesIO(), format="PNG")
    write_atomically(run.path / FILMSTRIP_NAME, content.getvalue())
    log.log_image(FILMSTRIP, filmstrip, result.steps)
    snapshot = run.path / "snapshots" / result.snapshot
    finished = TrainingResult(
        **result.content(),
        experiment_id=log.experiment_id,
        snapshot_sha256={file.name: sha256_of(file) for file in sorted(snapshot.iterdir())},
    )
    log.set_tags({START_STEP_TAG: str(result.start_step), BEST_STEP_TAG: str(result.best_step)})
    find_gaps(run, log)
    log.flush()
    workspace.require_same_store()  # a run that is finished is never delivered again
    run.finish(finished)
    return finished
