"""Stage keys: what moves them, what does not, and how it is explained that a stage runs."""

import pytest

from pikavae.data.prepare import prepare_inputs
from pikavae.data.shards.make import Recipe
from pikavae.errors import UserError
from pikavae.features.published import OF_EVALUATION
from pikavae.operations.stages import keys as stages
from pikavae.presets import load_config


def train_key(**overrides):
    return stages.key_of(stages.train_inputs(load_config("demo", overrides), "fingerprint"))


def test_where_and_how_often_does_not_move_the_training_key():
    assert train_key() == train_key(
        **{"training.device": "cpu", "training.log_every": 7, "training.checkpoint_every": 9}
    )
    assert train_key() == train_key(**{"training.activations": "checkpoint", "training.compile": True})
    assert train_key() == train_key(**{"training.gradient_checkpointing": True})  # as earlier versions named it
    assert train_key() == train_key(**{"training.keep_checkpoints": 1, "tracking.experiment": "other"})
    assert train_key() == train_key(**{"evaluation.batch_size": 3, "registry.model_name": "other"})


@pytest.mark.parametrize(
    "override",
    [
        {"training.steps": 7},
        {"training.seed": 7},
        {"training.precision": "bf16"},
        {"optimizer.learning_rate": 0.1},
        {"loss.kl_weight": 0.1},
        {"model.latent_channels": 8},
    ],
)
def test_what_decides_the_weights_moves_the_training_key(override):
    assert train_key(**override) != train_key()


def test_the_sizes_of_flux2_are_inputs_only_of_models_that_have_them():
    plain = stages.train_inputs(load_config("demo"), "f")
    assert not {"model.latent_norm", "model.decoder_channels"} & plain.keys()
    flux2 = load_config("demo", {"model.latent_norm": True, "model.decoder_channels": [8, 16, 32]})
    assert stages.train_inputs(flux2, "f").keys() - plain.keys() == {"model.latent_norm", "model.decoder_channels"}


def test_channels_are_inputs_only_where_they_are_not_rgb():
    plain, alpha = load_config("demo"), load_config("demo", {"data.channels": ["rgba"]})
    assert stages.train_inputs(alpha, "f").keys() - stages.train_inputs(plain, "f").keys() == {"model.image_channels"}
    fields = {"data.channels", "data.bit_depth", "data.range"}
    assert not fields & prepare_inputs(plain.data).keys()
    assert fields & prepare_inputs(alpha.data).keys() == {"data.channels"}
    assert Recipe.of(plain.data).content().keys() == {"image_size", "crop", "background", "max_pixels"}
    assert Recipe.of(alpha.data).content()["form"]["channels"] == ("red", "green", "blue", "alpha")


def test_the_pictures_move_the_training_key():
    config = load_config("demo")
    assert len({stages.key_of(stages.train_inputs(config, name)) for name in "ab"}) == 2


def test_the_run_key_holds_the_later_stages_too():
    config = load_config("demo")
    train = stages.train_inputs(config, "fingerprint")
    other = load_config("demo", {"evaluation.primary_metric": "ssim"})
    assert stages.run_key(config, train) != stages.run_key(other, train)


def test_whole_pictures_are_in_an_evaluations_key_only_if_they_differ():
    inputs = [
        stages.evaluate_inputs(load_config("demo", change), run_id=None, model="digest", evaluation_set="pictures")
        for change in ({}, {"evaluation.whole_pictures": 4}, {"evaluation.whole_pictures": 8})
    ]
    assert inputs[0] == inputs[1]
    assert "evaluation.whole_pictures" not in inputs[0]
    assert inputs[2]["evaluation.whole_pictures"] == 8


def test_the_policy_of_promotion_moves_no_key():
    one, other = load_config("demo"), load_config("demo", {"promotion.psnr_floor": 1, "promotion.half_precision": []})
    train = stages.train_inputs(one, "fingerprint")
    assert train == stages.train_inputs(other, "fingerprint")
    assert stages.run_key(one, train) == stages.run_key(other, train)
    measured = {"run_id": "run", "model": "digest", "evaluation_set": "pictures"}
    assert stages.evaluate_inputs(one, **measured) == stages.evaluate_inputs(other, **measured)
    registered = {"run_id": "run", "model": "digest", "report": "key"}
    assert stages.register_inputs(one, **registered) == stages.register_inputs(other, **registered)


def test_a_miss_names_the_inputs_that_changed_since_the_nearest_earlier_one():
    earlier = [{"a": 1, "b": 2, "c": 3}, {"a": 5, "b": 6, "c": 7}]
    new = {"a": 1, "b": 3, "c": 4}
    assert stages.why_it_runs(new, earlier) == "b: 2 -> 3; c: 3 -> 4"
    assert stages.why_it_runs(new, []) == "nothing of the kind was done before"


def test_changed_pictures_are_named():
    old = {"pictures": {"a.png": "1", "b.png": "2", "c.png": "3"}}
    new = {"pictures": {"a.png": "1", "b.png": "9", "d.png": "4"}}
    assert stages.why_it_runs(new, [old]) == "pictures: 1 added (d.png), 1 removed (c.png), 1 changed (b.png)"


def test_code_that_changed_is_named_by_file():
    old = {"code of the training": {"training/loop.py": "1", "training/step.py": "2"}}
    new = {"code of the training": {"training/loop.py": "1", "training/step.py": "3"}}
    assert stages.why_it_runs(new, [old]) == "code of the training: 1 changed (training/step.py)"


def test_code_that_was_hashed_by_folders_is_said_to_be_of_an_earlier_version():
    old = {"a": 1, "code of pikavae/model": "x", "code of pikavae/training": "y"}
    new = {"a": 1, "code of the training": {"training/loop.py": "1"}}
    assert stages.why_it_runs(new, [old]) == "code of the training: an earlier version of pikavae"


def test_starting_weights_are_an_input_only_when_they_are_given():
    config = load_config("demo")
    new = stages.train_inputs(config, "f")
    begun = stages.train_inputs(config, "f", "0123456789abcdef")
    assert stages.differences(begun, new) == ["starting weights: None -> '0123456789abcdef'"]
    assert stages.key_of(begun) != stages.key_of(new)


def evaluate_key(**overrides):
    config = load_config("demo", {f"evaluation.{name}": value for name, value in overrides.items()})
    return stages.key_of(stages.evaluate_inputs(config, run_id=None, model="m", evaluation_set="e"))


@pytest.mark.parametrize("field", ["lpips_weights", "inception_weights"])
def test_weights_move_the_evaluations_key_by_what_they_hold(field, tmp_path):
    without = evaluate_key()
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (evaluate_key(**{field: str(tmp_path / name)}) for name in "abc")
    assert a == b
    assert len({without, a, c}) == 3
    cached = OF_EVALUATION[f"evaluation.{field}"].cache_path
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"1")
    assert evaluate_key() == a


def test_a_file_of_weights_that_is_not_there_is_told_before_a_training():
    config = load_config("demo", {"evaluation.lpips_weights": "nowhere.pth"})
    with pytest.raises(UserError, match=r"evaluation\.lpips_weights nowhere\.pth: no such file"):
        stages.run_key(config, stages.train_inputs(config, "fingerprint"))


def test_a_teacher_is_an_input_only_when_there_is_one():
    plain = load_config("demo")
    assert not {"model.kind", "loss.latent_weight", "training.teacher"} & stages.train_inputs(plain, "f").keys()
    sizes = {"model.kind": "tiny", "model.channels": [8, 8], "model.resample_shortcuts": False}
    sizes |= {"model.zero_init_residuals": False, "model.initial_logvar": None}
    config = load_config("demo", {**sizes, "training.teacher": "champion"})
    alone = stages.train_inputs(config, "f")
    assert alone["model.kind"] == "tiny"
    taught = stages.train_inputs(config, "f", None, {stages.TEACHER: "0123", stages.TEACHERS_SCALING: "4567"})
    assert stages.differences(taught, alone) == [
        "scaling of the teacher's latents: None -> '4567'",
        "teacher: None -> '0123'",
    ]


def test_another_teacher_makes_another_sweep():
    config = load_config("demo")
    sweeps = [
        stages.sweep_inputs(config, "pictures", None, teacher, space={"optimizer.eps": [1, 2]}, metric="psnr", seed=0)
        for teacher in (None, {stages.TEACHER: "one"}, {stages.TEACHER: "another"})
    ]
    assert len({stages.key_of(inputs) for inputs in sweeps}) == 3
    assert stages.TEACHER not in sweeps[0]
