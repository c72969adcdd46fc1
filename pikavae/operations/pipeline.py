"""The four stages of a run. Each takes what the one before returned, and does its work unless it is done already."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from pikavae import runs, stages
from pikavae.config import Config
from pikavae.data.dataset import PictureSet, PreparedSet
from pikavae.data.prepare import PAGE_NAME
from pikavae.data.prepare import prepare as prepare_data
from pikavae.delivery import Delivery
from pikavae.errors import PikavaeError, PreemptedError, UserError
from pikavae.evaluation.evaluate import evaluate as evaluate_pictures
from pikavae.evaluation.model_card import CARD_NAME
from pikavae.evaluation.tiny import TinyAutoencoder, read_measurable
from pikavae.features.weights import VGG16
from pikavae.files import exclusive, folder_atomically, sha256_of, write_atomically
from pikavae.git import git_tags
from pikavae.home import home
from pikavae.operations.cards import card_of
from pikavae.operations.describing import (
    data_metrics,
    evaluation_note,
    report_tags,
    run_metrics,
    run_name,
    run_note,
    version_metrics,
)
from pikavae.operations.imported import starting_weights
from pikavae.operations.results import (
    STAGE_NAME,
    Evaluated,
    Prepared,
    Registered,
    Trained,
    find_evaluated,
    find_trained,
    find_unfinished,
    report_hashes,
)
from pikavae.operations.summary import summary
from pikavae.operations.supervision import train_apart
from pikavae.registry import versions
from pikavae.runs import RunFolder
from pikavae.tracked import find_run
from pikavae.tracking import RunLog, answers, connect, experiment_id
from pikavae.training.worker import Job

logger = logging.getLogger(__name__)

FILMSTRIP_NAME = "filmstrip.png"
CHECKOUT = Path(__file__).resolve().parents[2]


def prepare(config: Config, progress: Callable[[int, int | None], None] | None = None) -> Prepared:
    """Prepare the pictures, or find them prepared.

    Args:
        config: the whole configuration.
        progress: told how many pictures are done, and of how many when that is known.
    """
    began = time.monotonic()
    pictures, reused = prepare_data(config.data, home() / "prepared", progress=progress)
    logger.info(
        "%s %s: %d training and %d validation pictures of %d px, %d set aside",
        "reusing prepared set" if reused else "prepared",
        pictures.fingerprint,
        len(pictures.train),
        len(pictures.validation),
        config.data.image_size,
        pictures.record["num_quarantined"],
    )
    return Prepared(pictures, reused, time.monotonic() - began)


def train(
    config: Config,
    prepared: Prepared,
    *,
    fresh: bool = False,
    start: Path | None = None,
    links: Mapping[str, str] | None = None,
) -> Trained:
    """Train, go on with an unfinished training of the same key, or find a finished one; one process at a time does it.

    Args:
        config: the whole configuration.
        prepared: what `prepare` returned.
        fresh: train again even if the same was trained before.
        start: a snapshot folder with the first weights, instead of those that `training.start` names.
        links: tags that point to where this attempt was started, such as `pikavae.flow_run_id`.
    """
    began = time.monotonic()
    start = start or starting_weights(config)
    digest = runs.snapshot_digest(start) if start else None
    inputs = stages.train_inputs(config, prepared.pictures.fingerprint, use_threads(config), digest)
    key = stages.key_of(inputs)
    waiting = f"the same training (key {key}) is under way in another process; waiting for its result"
    with exclusive(home() / "runs" / f"{key}.lock", waiting=waiting):
        found = None if fresh else find_trained(key)
        if found is not None:
            logger.info("reusing run %s, which has trained this", found.run.run_id)
            return found
        refuse_what_cannot_begin(config, start)
        run, log = _open_run(config, prepared, inputs, fresh=fresh)
        with recording(log):
            log.set_tags({**git_tags(CHECKOUT), **(links or {})})
            log.set_note(run_note(config, prepared.pictures, log, links or {}))
            log.log_file(prepared.pictures.path / PAGE_NAME, "data")
            if links and (flow_run_id := links.get("pikavae.flow_run_id")):
                log.add_attempt(flow_run_id)
            result = _train_in(config, prepared.pictures, run, log, start)
        snapshot = run.path / "snapshots" / str(result["snapshot"])
        return Trained(run, result, snapshot, reused=False, seconds=time.monotonic() - began)


def refuse_what_cannot_begin(config: Config, start: Path | None) -> None:
    """Tell of what a training lacks before anything is written for it.

    Raises:
        UserError: the decoder alone is to learn, beside an encoder that never did; or VGG16's weights are missing.
    """
    if config.training.trainable == "decoder" and start is None:
        raise UserError(
            "training.trainable decoder: without training.start the encoder stays as random as it begins; name the "
            "weights in training.start, or set training.trainable to all"
        )
    if config.loss.perceptual_weight:
        VGG16.require(config.loss.perceptual_weights, "loss.perceptual_weights")


def evaluate(config: Config, prepared: Prepared, trained: Trained) -> Evaluated:
    """Measure the run's snapshot on the validation pictures, or find its report; the run gets the scores."""
    began = time.monotonic()
    inputs = stages.evaluate_inputs(
        config,
        run_id=trained.run.run_id,
        model=runs.snapshot_digest(trained.snapshot),
        evaluation_set=prepared.pictures.validation.digest,
    )
    if found := find_evaluated(stages.key_of(inputs)):
        logger.info("reusing report %s", found.folder.name)
        return found
    log = RunLog.resume(connect(home()), trained.run.run_id)
    with recording(log):
        filmstrip = trained.run.path / FILMSTRIP_NAME
        done = evaluate_snapshot(config, prepared.pictures.validation, trained.snapshot, inputs, filmstrip)
        log.log(run_metrics(done.report), trained.step, again=True)  # measured anew: the later point counts
        for file in sorted(done.folder.iterdir()):
            log.log_file(file, "evaluation")
        log.set_tags({"pikavae.evaluate_key": done.folder.name})
        log.set_note(evaluation_note(log, done.report))
    return replace(done, seconds=time.monotonic() - began)


def register(config: Config, prepared: Prepared, trained: Trained, evaluated: Evaluated) -> Registered:
    """Register the run's snapshot as a candidate version, or find the version that it has."""
    began = time.monotonic()
    digest = runs.snapshot_digest(trained.snapshot)
    inputs = stages.register_inputs(config, run_id=trained.run.run_id, model=digest, report=evaluated.folder.name)
    key, client = stages.key_of(inputs), connect(home())
    if found := versions.find_version(client, config.registry.model_name, key):
        logger.info("reusing %s version %d", found.name, found.version)
        return Registered(found, reused=True)
    log = RunLog.resume(client, trained.run.run_id)
    with recording(log):
        version = versions.register(
            client,
            run_id=trained.run.run_id,
            snapshot=trained.snapshot,
            model_name=config.registry.model_name,
            image_size=config.data.image_size,
            step=trained.step,
            metrics=version_metrics(evaluated.report),
            tags={
                "pikavae.register_key": key,
                "pikavae.run_id": trained.run.run_id,
                "pikavae.fingerprint": prepared.pictures.fingerprint,
                "pikavae.config_hash": stages.key_of(config.flat()),
                "pikavae.snapshot": digest,
                **report_tags(evaluated, prepared),
                **git_tags(CHECKOUT),
            },
            description=evaluated.report.summary_markdown(),
        )
        log.set_tags({"pikavae.version": str(version.version), "pikavae.registered_model": version.name})
        record = json.dumps({"key": key, "inputs": inputs, "version": version.version}, indent=2)
        write_atomically(trained.run.path / "registrations" / f"{key}.json", record + "\n")
    return Registered(version, reused=False, seconds=time.monotonic() - began)


def run(config: Config, *, fresh: bool = False) -> dict[str, Any]:
    """The four stages one after the other, as the flow does them but without Prefect; the keys of `pikavae run`."""
    prepared = prepare(config)
    trained = train(config, prepared, fresh=fresh)
    evaluated = evaluate(config, prepared, trained)
    return summary(prepared, trained, evaluated, register(config, prepared, trained, evaluated))


def use_threads(config: Config) -> int:
    """Make torch use the configured number of CPU threads, and return it."""
    threads = config.training.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    return threads


def choose_device(config: Config) -> torch.device:
    """The configured device; `auto` is a CUDA device when there is one, else the CPU.

    Raises:
        PikavaeError: the named device is not there.
    """
    name = config.training.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[name]:
        raise PikavaeError(f"training.device {name!r}: torch finds no such device here; use `auto` or `cpu`")
    return torch.device(name)


def evaluate_snapshot(
    config: Config, pictures: PictureSet, snapshot: Path, inputs: stages.Inputs, filmstrip: Path | None = None
) -> Evaluated:
    """Measure a snapshot and write the report under its key; its page shows the training where there is a filmstrip."""
    folder = home() / "evaluations" / stages.key_of(inputs)
    with exclusive(folder.with_suffix(".lock")):
        if found := find_evaluated(folder.name):
            return found
        with folder_atomically(folder) as temporary:
            provenance = {"run": inputs["run"], "model": inputs["model"]}
            model = read_measurable(snapshot)
            report = evaluate_pictures(
                model,
                pictures,
                config.evaluation,
                temporary,
                device=choose_device(config),
                provenance=provenance,
                filmstrip=filmstrip if filmstrip and filmstrip.is_file() else None,
            )
            name = f"run {inputs['run']}" if inputs["run"] else f"model {inputs['model']}"
            if not isinstance(model, TinyAutoencoder):  # whose maker tells of it
                (temporary / CARD_NAME).write_text(card_of(snapshot, report, name), encoding="utf-8")
            stage = {"inputs": inputs, "sha256": report_hashes(temporary)}
            (temporary / STAGE_NAME).write_text(json.dumps(stage, indent=2) + "\n")
    return Evaluated(report, folder, reused=False)


@contextmanager
def recording(log: RunLog) -> Iterator[None]:
    """End the MLflow run as what happened: FINISHED, FAILED, or KILLED when the process was told to stop.

    A tracker that is away keeps the run as it is: the next attempt goes on with it.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, PreemptedError) or not isinstance(error, Exception)
        if answers(home()):
            if not stopped:
                log.set_tags({"pikavae.error": str(error)[:5000]})
            log.end("KILLED" if stopped else "FAILED")
        raise
    log.end("FINISHED")


def _open_run(config: Config, prepared: Prepared, inputs: dict[str, Any], *, fresh: bool) -> tuple[RunFolder, RunLog]:
    """The unfinished run of this key, or a new one."""
    client, key, pictures = connect(home()), stages.key_of(inputs), prepared.pictures
    begun = None if fresh else find_unfinished(key)
    if begun is not None:
        logger.info("going on with run %s", begun.run_id)
        return begun, RunLog.resume(client, begun.run_id)
    experiment = experiment_id(client, home(), config.tracking.experiment)
    tags = {
        "pikavae.train_key": key,
        "pikavae.run_key": stages.run_key(config, inputs),
        "pikavae.fingerprint": pictures.fingerprint,
        **({"pikavae.starting_weights": inputs[stages.START]} if stages.START in inputs else {}),
    }
    orphan = (
        None if fresh else next((run for run in find_run(client, experiment, tags) if run.status == "RUNNING"), None)
    )
    if orphan is not None:  # killed between the creation of the MLflow run and that of its folder
        log = RunLog.resume(client, orphan.run_id)
    else:
        log = RunLog.start(client, experiment, run_name(config), tags=tags, params=config.flat())
    log.log_text(config.to_yaml(), "config.yaml")
    for side, context in ((pictures.train, "training"), (pictures.validation, "validation")):
        log.log_dataset(
            f"{config.data.source} {context}"[:500],
            side.digest[:36],
            context,
            num_rows=len(side),
            source=config.data.source,
        )
    log.log(data_metrics(pictures), 0)
    record = {
        "key": key,
        "inputs": inputs,
        "created": datetime.now(UTC).isoformat(),
        "config": config.model_dump(mode="json"),
    }
    return runs.create_run_folder(home(), log.run_id, record), log


def _train_in(config: Config, pictures: PreparedSet, run: RunFolder, log: RunLog, start: Path | None) -> dict[str, Any]:
    """Train in the run's folder, in a process of its own, and record the result when MLflow has everything."""
    device = choose_device(config).type
    processes = count_processes(config, device)
    job = Job(config, pictures.path, start, device, threads_of(config, processes), processes)
    with Delivery(run.path, log, pictures.validation, config.training.preview_images) as delivery:
        result = train_apart(run.path, job, config.training.restarts)
        delivery.finish()
        filmstrip = delivery.filmstrip()
    filmstrip.save(content := BytesIO(), format="PNG")
    write_atomically(run.path / FILMSTRIP_NAME, content.getvalue())
    log.log_image("filmstrip", filmstrip, result["steps"])
    snapshot = run.path / "snapshots" / str(result["snapshot"])
    values = {
        **result,
        "experiment_id": log.experiment_id,
        "snapshot_sha256": {file.name: sha256_of(file) for file in sorted(snapshot.iterdir())},
    }
    log.set_tags({f"pikavae.{name}": str(result[name]) for name in ("start_step", "best_step")})
    log.flush()
    run.finish(values)
    return values


def count_processes(config: Config, device: str) -> int:
    """The configured number of training processes; by default as many GPUs as can share a batch, and one on the CPU."""
    if config.training.processes is not None:
        return config.training.processes
    present = torch.cuda.device_count() if device == "cuda" else 1
    return max(count for count in range(1, present + 1) if config.training.batch_size % count == 0)


def threads_of(config: Config, processes: int) -> int:
    """CPU threads of each training process: as configured, or an equal part of what torch finds."""
    return config.training.threads or max(1, torch.get_num_threads() // processes)
