"""Each operation as a command does it: with the workspace of PIKAVAE_HOME, and with models by their names."""

from mlflow import MlflowClient

from flows.cli import main
from pikavae import operations
from pikavae.operations import Workspace


def workspace():
    """The workspace of the test's home, as a new command has it."""
    return Workspace.open()


def client():
    return workspace().client


def bare_client():
    """MLflow's own client of the store, without what a workspace checks and makes when it opens one."""
    return MlflowClient(workspace().tracking_uri)


def run_cli(capsys, *words):
    """Exit status, standard output, standard error."""
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def resolve(name, config, **how):
    return operations.resolve(workspace(), name, config, **how)


def find_model(name, config):
    """The snapshot folder of a model."""
    return resolve(name, config).folder


def starting_weights(config):
    """The folder of the weights that a training begins with."""
    start = operations.starting_weights(workspace(), config)
    return None if start is None else start.folder


def config_of_model(name, *model_name):
    return operations.config_of_model(workspace(), name, *model_name)


def prepare(config, *progress, **how):
    return operations.prepare(workspace(), config, *progress, **how)


def train(config, prepared, **how):
    here = workspace()
    return operations.train(here, config, prepared, start=operations.starting_weights(here, config), **how)


def evaluate(config, prepared, trained):
    return operations.evaluate(workspace(), config, prepared, trained)


def register(config, prepared, trained, evaluated):
    return operations.register(workspace(), config, prepared, trained, evaluated)


def run(config, **how):
    return operations.run(workspace(), config, **how)


def plan(config):
    here = workspace()
    return operations.plan(here, config, start=operations.starting_weights(here, config))


def plan_retraining(config, **how):
    return operations.plan_retraining(workspace(), config, **how)


def settle(config, **how):
    return operations.settle(workspace(), config, **how)


def evaluate_model(name, config):
    here = workspace()
    return operations.evaluate_model(here, operations.resolve(here, name, config), config)


def beside(name, config, others=()):
    here = workspace()
    model, *rest = (operations.resolve(here, one, config) for one in (name, *others))
    return operations.beside(here, model, config, rest)


def compare_models(name, against, config):
    here = workspace()
    one, other = (operations.resolve(here, model, config) for model in (name, against))
    return operations.compare_models(here, one, other, config)


def register_model(name, config):
    here = workspace()
    return operations.register_model(here, operations.model_to_register(here, name, config), config)


def import_model(name, config):
    here = workspace()
    return operations.import_model(here, operations.model_to_import(here, name, config), config)


def export_model(name, out, config):
    here, out = workspace(), operations.export_target(out)
    return operations.export_model(here, operations.model_to_export(here, name, config), out, config)


def encode(name, config, out, **how):
    here = workspace()
    return operations.encode(here, operations.resolve(here, name, config), config, out, **how)


def reconstruct(name, images, out, config):
    return operations.reconstruct(resolve(name, config), images, out, config)


def interpolate(name, first, second, out, config, **how):
    return operations.interpolate(resolve(name, config), first, second, out, config, **how)


def sample(name, images, out, config, **how):
    here = workspace()
    return operations.sample(here, operations.resolve(here, name, config), images, out, config, **how)


def list_models(config):
    return operations.list_models(workspace(), config)


def show_model(number, config):
    return operations.registered_version(workspace(), number, config).version


def status_of(version):
    return operations.status_of(workspace(), version)


def verdict_lines(verdicts):
    return operations.verdict_lines(workspace(), verdicts)


def promote(name, config, **how):
    here = workspace()
    return operations.promote(here, operations.find_or_register(here, name, config), config, **how)


def approve(version, config, *, reason):
    return operations.approve(workspace(), version, config, reason=reason)


def rollback(*, reason):
    return operations.rollback(workspace(), reason=reason)


def prune(**how):
    return operations.prune(workspace(), **how)


def relocate(*old, **how):
    return operations.relocate(workspace(), *old, **how)
