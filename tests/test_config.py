"""The configuration tree: strict names, bounds, presets, and what is said when something is wrong."""

import pytest
import yaml
from pydantic import ValidationError

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.presets import load_config, parse_config, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_survive_a_round_trip_through_yaml(name, tmp_path):
    config = load_config(name)
    file = tmp_path / "again.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(file) == config


def test_the_tutorial_preset_is_the_originals_set_up():
    config = load_config("tutorial")
    assert config.data.source == "hub:lansinuote/diffsion_from_scratch"
    assert (config.data.image_size, config.data.image_column, config.data.caption_column) == (512, "image", "text")
    assert config.model == Config().model
    assert (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay) == (
        "adamw",
        1e-5,
        0.01,
    )
    assert (config.training.batch_size, config.training.accumulation, config.training.epochs) == (1, 200, 50)


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"training": {"stepz": 3}}, "training.stepz: no such field; did you mean training.steps?"),
        ({"trainng": {}}, "trainng: no such field; did you mean training?"),
        ({"steps": 3}, "steps: no such field; did you mean training.steps?"),
        ({"training": {"steps": 0}}, "training.steps 0: input should be greater than or equal to 1"),
        ({"training": {"steps": "many"}}, "training.steps 'many': input should be a valid integer"),
        (
            {"optimizer": {"learning_rate": float("nan")}},
            "optimizer.learning_rate nan: input should be a finite number",
        ),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name 'sgd': input should be 'adamw' or 'muon'"),
        ({"data": {"background": [0, 0, 256]}}, "data.background.2 256: input should be less than or equal to 255"),
        ({"data": {"image_size": 90}}, "data.image_size 90 is not a multiple of the downsampling factor 8"),
        ({"data": {"image_size": 90}}, "use 88 or 96"),
        ({"model": {"norm_groups": 7}}, "model.norm_groups 7 does not divide the 128 of model.channels"),
        ({"registry": {"model_name": "pikavae-production"}}, "this is where promoted versions go"),
        ({"registry": {"model_name": "../a\nb'"}}, "registry.model_name"),
        ([1], "expected sections such as"),
        ({"training": 3}, "training 3"),
    ],
)
def test_a_mistake_gives_one_line_with_field_value_and_remedy(tree, complaint):
    with pytest.raises(UserError) as caught:
        parse_config(tree)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_lie_on_top_of_the_preset():
    config = load_config("demo", {"training.steps": 3, "data.image_size": 32})
    assert (config.training.steps, config.data.image_size) == (3, 32)
    assert config.optimizer == load_config("demo").optimizer


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean tutorial"):
        load_config("tutorail")


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("data: [")
    with pytest.raises(UserError, match=r"broken\.yaml: not a YAML file"):
        load_config(file)


def test_the_tree_is_frozen():
    with pytest.raises(ValidationError):
        Config().training.steps = 3  # type: ignore[misc]


def test_every_field_has_a_description():
    for section in Config.model_fields.values():
        assert section.description
        assert all(field.description for field in section.annotation.model_fields.values())


@pytest.mark.parametrize(("family", "latent_channels", "quant_conv"), [("sdxl", 4, True), ("flux1", 16, False)])
def test_sizes_of_a_family_are_named_by_it_and_leave_no_trace(family, latent_channels, quant_conv):
    named = parse_config({"model": {"like": family, "norm_groups": 16}})
    stated = parse_config({"model": {"latent_channels": latent_channels, "quant_conv": quant_conv, "norm_groups": 16}})
    assert named == stated
    assert named.to_yaml() == stated.to_yaml()
    assert named.flat() == stated.flat()
    assert "model.like" not in named.flat()
    assert Config.model_validate({"model": {"like": None}}) == Config()


def test_a_family_named_on_the_command_line_replaces_the_sizes_of_a_preset():
    config = load_config("tutorial", {"model.like": "sd3", "model.num_res_blocks": 1})
    assert (config.model.latent_channels, config.model.quant_conv, config.model.num_res_blocks) == (16, False, 1)
    small = load_config("demo", {"model.like": "sd1"}).model
    assert (small.channels, small.norm_groups) == ((128, 256, 512, 512), 32)
    assert small.resample_shortcuts == load_config("demo").model.resample_shortcuts


@pytest.mark.parametrize("family", ["flux9", ["flux1"], 1])
def test_an_unknown_family_is_refused_with_the_known_ones(family):
    with pytest.raises(UserError, match=r"model\.like .*'sd1', 'sdxl', 'sd3', 'flux1', 'flux2', 'taesd' or 'taef2'"):
        parse_config({"model": {"like": family}})


def test_a_configuration_from_before_a_field_has_its_default():
    before = Config().model_dump(mode="json")
    del before["model"]["quant_conv"]
    assert Config.model_validate(before) == Config()


@pytest.mark.parametrize(("switch", "expected"), [(True, "checkpoint"), (False, "auto")])
def test_the_switch_for_checkpointing_of_earlier_versions_is_read(switch, expected, tmp_path):
    tree = Config().model_dump(mode="json")
    del tree["training"]["activations"]
    tree["training"]["gradient_checkpointing"] = switch
    file = tmp_path / "earlier.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert load_config(file).training.activations == expected
    assert load_config(file, {"training.activations": "keep"}).training.activations == "keep"


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_compile_is_a_switch_or_auto(value):
    assert load_config("demo", {"training.compile": value}).training.compile is value
