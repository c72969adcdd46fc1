"""A home with candidates, for what concerns production."""

import os

import numpy as np
import torch

from pikavae import tracking
from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.registry import production, versions
from pikavae.registry.package import file_hashes

NAME = "candidates"
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 24)).astype(np.float32)


class House:
    """A home with two candidates."""

    def __init__(self, home, folder):
        self.home = home
        self.client = tracking.connect(home)
        experiment = tracking.experiment_id(self.client, home, "training")
        self.run = tracking.RunLog.start(self.client, experiment, "a run", tags={}, params={})
        for seed in (1, 2):
            self.register(folder, seed)

    def register(self, folder, seed, last_weight=None):
        """Register a model drawn from a seed, with a given value as its last weight."""
        snapshot = folder / f"step-{seed:08d}"
        snapshot.mkdir()
        torch.manual_seed(seed)
        model = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4, num_res_blocks=1))
        if last_weight is not None:
            *_, last = model.decoder.parameters()
            last.data.fill_(last_weight)
        write_snapshot(snapshot, model, image_size=16, settings="data: {}\n")
        versions.register(
            self.client,
            run_id=self.run.run_id,
            snapshot=snapshot,
            model_name=NAME,
            image_size=16,
            step=seed,
            metrics={"val/psnr": 20.0 + seed},
            tags={"pikavae.register_key": f"key{seed}", "pikavae.fingerprint": "abc"},
            description="",
        )

    def promote(self, version, reason="because"):
        return production.promote(self.client, self.home, model_name=NAME, version=version, reason=reason)

    def rollback(self, reason="because"):
        return production.rollback(self.client, self.home, reason=reason)

    def state(self):
        """All that a refusal must leave as it is."""
        listed = versions.list_versions(self.client, production.PRODUCTION_NAME)
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
            return mlflow.pyfunc.load_model(f"models:/{production.PRODUCTION_NAME}@champion").predict(IMAGES)
        finally:
            mlflow.set_tracking_uri(None)
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before
