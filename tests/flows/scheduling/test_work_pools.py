"""The job templates for work pools on Kubernetes and Docker: what Prefect's server and its workers take."""

import json

import pytest
from prefect.server.api import collections
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.schema_tools import ValidationError, is_valid_schema, validate
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration

from tests.support.places import ROOT

FILES = {name: ROOT / "configs" / "work-pools" / f"{name}.json" for name in ("docker", "kubernetes")}
OWN = {"kubernetes": {"gpus", "home_claim", "pictures_claim", "pictures_path", "secret"}, "docker": set()}

each = pytest.mark.parametrize("name", FILES)


@pytest.fixture(params=FILES)
def template(request):
    return json.loads(FILES[request.param].read_text())


def prefects_own(name):
    """The template that Prefect's server comes with for a type of worker."""
    path = collections.__file__.replace("collections.py", "collections_data/views/aggregate-worker-metadata.json")
    with open(path) as file:  # noqa: PTH123
        return json.load(file)[f"prefect-{name}"][name]["default_base_job_configuration"]


def defaults(template):
    return {name: v["default"] for name, v in template["variables"]["properties"].items() if "default" in v}


def rendered(template, **values):
    return apply_values(template["job_configuration"], defaults(template) | values, remove_notset=True)


def test_prefects_server_takes_the_template_and_its_defaults(template):
    WorkPoolCreate(name="pikavae", type="any", base_job_template=template)
    is_valid_schema(template["variables"], preprocess=False)
    validate(defaults(template), template["variables"], raise_on_error=True, preprocess=True)


def test_a_value_of_the_wrong_kind_is_refused(template):
    wrong = defaults(template) | {"image": 3}
    with pytest.raises(ValidationError, match="3 is not of type 'string'"):
        validate(wrong, template["variables"], raise_on_error=True, preprocess=True)


def test_the_command_is_that_of_prefects_workers(template):
    assert defaults(template)["command"] == BaseJobConfiguration._base_flow_run_command()


@each
def test_what_prefect_declares_is_there_with_other_defaults_alone(name):
    ours, theirs = json.loads(FILES[name].read_text()), prefects_own(name)
    variables, expected = ours["variables"]["properties"], theirs["variables"]["properties"]
    assert variables.keys() - expected.keys() == OWN[name]
    for field, schema in expected.items():
        without = [{key: value for key, value in one.items() if key != "default"} for one in (variables[field], schema)]
        assert without[0] == without[1], field
    changed = {
        field for field, value in theirs["job_configuration"].items() if ours["job_configuration"][field] != value
    }
    assert changed <= {"job_manifest"}


def test_a_run_on_kubernetes_finds_its_home_its_pictures_and_its_secrets():
    manifest = rendered(json.loads(FILES["kubernetes"].read_text()), gpus=2, pictures_path="/data")["job_manifest"]
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {
        "home": {one["name"]: one["value"] for one in container["env"]}["PIKAVAE_HOME"],
        "pictures": "/data",
    }
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claims == {"home": "pikavae-home", "pictures": "pikavae-pictures"}
    assert container["envFrom"] == [{"secretRef": {"name": "pikavae"}}]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert (container["name"], container["args"]) == ("prefect-job", "prefect flow-run execute")
    assert (pod["restartPolicy"], pod["parallelism"], pod["completions"]) == ("Never", 1, 1)  # what the worker demands


def test_a_run_in_docker_finds_its_home():
    job = rendered(json.loads(FILES["docker"].read_text()))
    assert job["env"]["PIKAVAE_HOME"] in {volume.split(":")[1] for volume in job["volumes"]}
    assert f"{job['env']['HOME']}/.mlflow" in {volume.split(":")[1] for volume in job["volumes"]}
