"""The short form of a run: what it shows, what it means, and what earlier deployments hold."""

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.forms import Advanced, form_config, form_labels
from flows.new_data import retrain_on_new_data
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.scheduling.deployments import check_deployments, check_parameters
from pikavae.config import FAMILIES, FOLLOWING, Config
from pikavae.errors import UserError
from pikavae.operations import Labels
from pikavae.presets import load_config, parse_config, preset_names


@pytest.mark.parametrize("flow", [pipeline, retrain, retrain_on_new_data])
def test_a_form_begins_with_four_fields_and_offers_the_presets(flow):
    schema = parameter_schema(flow).model_dump_for_openapi()
    shown = sorted(schema["properties"].values(), key=lambda item: item["position"])
    assert [item["title"] for item in shown][:4] == ["preset", "source", "name", "minutes"]
    assert [item["title"] for item in shown][-2:] == ["advanced", "config"]
    assert all(item["description"] for item in shown)
    assert shown[0]["enum"] == preset_names()
    assert not schema.get("required")
    for section, part in Config.model_fields.items():
        fields = schema["definitions"][f"Advanced{part.annotation.__name__}"]["properties"]
        assert fields.keys() == part.annotation.model_fields.keys() - FOLLOWING, section
        assert not [name for name, field in fields.items() if "default" in field or not field["description"]]


def test_what_is_not_filled_in_is_as_the_preset_says():
    assert form_config(preset="tutorial") == load_config("tutorial")
    asked = form_config(
        preset="tutorial",
        source=" /pictures ",
        minutes=2.5,
        advanced=Advanced.model_validate({"training": {"steps": 7}, "data": {"near_duplicate_distance": None}}),
    )
    assert asked == load_config(
        "tutorial",
        {
            "data.source": "/pictures",
            "data.near_duplicate_distance": None,
            "training.minutes": 2.5,
            "training.steps": 7,
        },
    )


def test_the_name_of_a_form_is_that_of_the_run():
    labels = Labels(name="theirs", tags={"data": "emoji"})
    assert form_labels(preset="tutorial") == Labels(preset="tutorial")
    assert form_labels(preset="demo", name=" mine ", labels=labels) == Labels(
        preset="demo", name="mine", tags=labels.tags
    )
    earlier = Labels(name="nightly", preset="scratch")
    assert form_labels(preset="demo", labels=earlier, config=load_config("demo")) == earlier
    with pytest.raises(UserError, match=r"^name 'a\\nb': "):
        form_labels(preset="demo", name="a\nb")


def test_no_switch_of_the_form_is_turned_off_by_showing_it():
    """Prefect's page sends `false` for a switch that nobody touched, if it is the first kind of a field."""
    definitions = Advanced.model_json_schema()["$defs"]
    fields = {name: field for part in definitions.values() for name, field in part["properties"].items()}
    first = {name: field.get("anyOf", [field])[0] for name, field in fields.items()}
    assert not [name for name, kind in first.items() if kind.get("type") == "boolean"]
    assert first["mid_attention"]["enum"] == ["true", "false"]
    assert first["compile"]["enum"] == ["true", "false", "auto"]
    for value in ("false", False):
        given = {"model": {"mid_attention": value}, "training": {"compile": value, "resident": None}}
        asked = form_config(preset="tutorial", advanced=Advanced.model_validate(given))
        assert (asked.model.mid_attention, asked.training.compile) == (False, False)
        assert asked.model.quant_conv == load_config("tutorial").model.quant_conv


def test_a_family_in_the_form_replaces_the_sizes_of_the_preset():
    asked = form_config(preset="demo", advanced=Advanced.model_validate({"model": {"like": "flux1"}}))
    assert {name: getattr(asked.model, name) for name in FAMILIES["flux1"]} == FAMILIES["flux1"]


def test_a_whole_configuration_as_earlier_deployments_hold_it_replaces_the_preset():
    config = load_config("demo", {"training.steps": 5})
    assert form_config(preset="tutorial", config=config) == config
    assert form_config(preset="tutorial", config=config, source="/pictures") == load_config(
        "demo", {"training.steps": 5, "data.source": "/pictures"}
    )
    earlier = config.model_dump(mode="json")
    for flow in (pipeline, retrain):
        assert flow.validate_parameters({"config": earlier})["config"] == config


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"preset": "demmo"}, "no such preset; did you mean demo"),
        ({"minutes": -1}, "greater than or equal to 0"),
        ({"advanced": {"training": {"steps": 0}}}, "greater than or equal to 1"),
        ({"advanced": {"training": {"stepz": 3}}}, "Extra inputs are not permitted"),
    ],
)
def test_a_form_refuses_what_no_run_can_have(parameters, complaint):
    with pytest.raises(ParameterTypeError, match=complaint):
        pipeline.validate_parameters(parameters)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"preset": "demo", "source": "pictures"}, "source 'pictures': a relative path"),
        ({"preset": "demo", "advanced": {"training": {"stepz": 3}}}, "advanced: training.stepz: no such field"),
        ({"preset": "demo", "advanced": {"data": {"image_size": 17}}}, "data.image_size 17 is not a multiple"),
        ({"config": {"training": {"steps": 0}}}, "config: training.steps 0: "),
        ({"preset": "demmo"}, "preset 'demmo': no such preset"),
    ],
)
def test_parameters_of_prefect_yaml_are_checked_as_the_form_is(parameters, complaint):
    with pytest.raises(UserError) as refused:
        check_parameters(parameters)
    assert complaint in str(refused.value)


def test_earlier_files_of_deployments_are_taken(tmp_path):
    path = tmp_path / "prefect.yaml"
    config = parse_config({"data": {"image_size": 64}}).model_dump(mode="json")
    path.write_text(
        f"deployments: [{{name: mine, entrypoint: flows.retrain.retrain, parameters: "
        f"{{config: {str(config).replace('None', 'null').replace('True', 'true').replace('False', 'false')}, "
        f"from_champion: false}}}}]"
    )
    assert check_deployments(path) == ["retrain/mine"]
