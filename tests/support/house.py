"""A home with candidates, for what concerns production."""

import os
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.production.changes import promote as production
from pikavae.production.changes.repair import repair_production
from pikavae.production.changes.verify import verify_production
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.registry import versions
from pikavae.registry.package import file_hashes
from pikavae.tracker import relocation, run_log
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder

NAME = "candidates"
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 24)).astype(np.float32)


class House:
    """A home with two candidates."""

    def __init__(self, home, folder):
        self.workspace = Workspace(home)
        experiment = self.workspace.experiment_id("training")
        self.run_id = run_log.RunLog.start(self.client, experiment, "a run", tags={}, params={}).run_id
        for seed in (1, 2):
            self.register(folder, seed)

    @classmethod
    def at(cls, home):
        """The house of a home that is there."""
        made = cls.__new__(cls)
        made.workspace = Workspace(home)
        made.run_id = versions.get_version(made.client, NAME, 1).run_id
        return made

    @property
    def home(self):
        return self.workspace.home

    @property
    def client(self):
        return self.workspace.client

    def register(self, folder, seed, change=None):
        """Register a model drawn from a seed, which `change` may alter first."""
        snapshot = folder / f"step-{seed:08d}"
        snapshot.mkdir()
        torch.manual_seed(seed)
        model = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4, num_res_blocks=1))
        if change is not None:
            change(model)
        write_snapshot(snapshot, model, image_size=16, config="data: {}\n")
        versions.register(
            self.client,
            run_id=self.run_id,
            snapshot=snapshot,
            model_name=NAME,
            image_size=16,
            step=seed,
            metrics={"val/psnr": 20.0 + seed},
            tags={"pikavae.register_key": f"key{seed}", "pikavae.fingerprint": "abc"},
            description="",
        )

    def promote(self, version, reason="because"):
        return production.promote(self.workspace, model_name=NAME, version=version, reason=reason)

    def rollback(self, reason="because"):
        return production.rollback(self.workspace, reason=reason)

    def disagreements(self, **arguments):
        """What `verify` complains of."""
        return [found.what for found in verify_production(self.workspace, **arguments).disagreements]

    def repair(self, **arguments):
        """Repair, after which nothing may be left; what was done."""
        repaired = repair_production(self.workspace, **arguments)
        assert repaired.left == []
        return repaired.done

    def state(self):
        """All that a refusal must leave as it is."""
        listed = versions.list_versions(self.client, PRODUCTION_NAME)
        store = self.home / "production"
        return (
            sorted((made.version, made.aliases) for made in listed),
            file_hashes(store) if store.exists() else {},
        )

    def predict(self):
        import mlflow

        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.client.tracking_uri)
        try:
            return mlflow.pyfunc.load_model(f"models:/{PRODUCTION_NAME}@champion").predict(IMAGES)
        finally:
            mlflow.set_tracking_uri(None)
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


def files_alone(uri, tracking_uri):
    """The files compared as the smoke test does, but without its process of five seconds."""
    name, version = uri.removeprefix("models:/").split("/")
    client = MlflowClient(tracking_uri=tracking_uri)
    return {"manifest": file_hashes(local_folder(client.get_model_version_download_uri(name, version)))}


def copy_home(home, target):
    """Copy a home to another place, where nothing is at work in the first."""
    shutil.copytree(home, target, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
    with closing(sqlite3.connect(home / "mlflow.db")) as source, closing(sqlite3.connect(target / "mlflow.db")) as copy:
        source.backup(copy)
    relocation.rewrite(target / "mlflow.db", home, target, dry_run=False)
    utils._artifact_repos_cache.clear()  # by a run's id alone, MLflow remembers for the process where its artifacts are


def copied(home, target):
    """The house of a copy of a home at another place, where nothing is at work in the first."""
    copy_home(home, target)
    return House.at(target)
