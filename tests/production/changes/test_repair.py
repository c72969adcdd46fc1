"""What disagrees with production's ledger is found and named, and put back wherever the bytes are."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from flows import cli
from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.production.changes import anchor, moves, promote
from pikavae.production.changes.repair import repair_production
from pikavae.production.packages import leftovers, store
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.record import ledger
from pikavae.registry import package, versions
from pikavae.registry.package import compiled_code
from pikavae.tracker import tags
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import list_files, local_folder
from tests.support.house import NAME, House, copied, files_alone


@pytest.fixture(scope="module")
def second_promoted(first_house, tmp_path_factory):
    """A home where version 2 is champion and version 1 the previous one."""
    house = copied(first_house.home, tmp_path_factory.mktemp("promoted") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(promote, "smoke_test", files_alone)
        house.promote(1)
        house.promote(2)
    return house


@pytest.fixture
def house(second_promoted, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(promote, "smoke_test", files_alone)
    house = copied(second_promoted.home, tmp_path / "home")
    anchor.write(house.workspace, ledger.read(anchor.ledger_path(house.home)))  # as a move tells it
    return house


def store_of(house, version):
    (folder,) = {event["store"] for event in promote.history(house.home) if event["version"] == version}
    return house.home / "production" / "store" / folder


def production_version(house, number):
    return versions.get_version(house.client, PRODUCTION_NAME, number)


def mlflow_folder(house, number):
    return local_folder(house.client.get_model_version_download_uri(PRODUCTION_NAME, str(number)))


def swap_weights(folder):
    path = folder / "artifacts" / "snapshot" / "diffusion_pytorch_model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def move_alias_and_edit_the_page(house):
    house.client.set_registered_model_alias(PRODUCTION_NAME, "champion", "1")
    house.client.set_model_version_tag(PRODUCTION_NAME, "2", "pikavae.promote.reason", "none of yours")
    edited = versions.get_version(house.client, PRODUCTION_NAME, 2)
    versions.set_tags(house.client, edited, {tags.MANIFEST_TAG: "{no JSON"})
    house.client.update_model_version(PRODUCTION_NAME, "2", "the best ever")
    house.client.set_model_version_tag(NAME, "1", f"{tags.STATUS_PREFIX}role", "champion")


def spoil_the_details(house):
    house.client.set_model_version_tag(PRODUCTION_NAME, "2", tags.DETAILS_TAG, "{no JSON")


def delete_the_champion_and_an_alias(house):
    house.client.delete_model_version(PRODUCTION_NAME, "2")
    house.client.delete_registered_model_alias(PRODUCTION_NAME, "previous")


def delete_the_registered_model(house):
    house.client.delete_registered_model(PRODUCTION_NAME)


def swap_stored_weights_and_delete_files(house):
    swap_weights(store_of(house, 2))
    house.client.delete_logged_model(production_version(house, 1).model_id)


def swap_served_weights_and_empty_the_store(house):
    swap_weights(mlflow_folder(house, 2))
    store.remove(store_of(house, 1))


def delete_run_and_experiment(house):
    house.client.delete_run(production_version(house, 2).run_id)
    house.client.delete_experiment(house.client.get_experiment_by_name(PRODUCTION_NAME).experiment_id)


def tell_too_little_and_leave_a_part(house):
    path = anchor.ledger_path(house.home)
    anchor.write(house.workspace, ledger.read(path)[:-1])
    path.write_bytes(path.read_bytes() + b'{"action":"promo')
    (house.home / "production" / "store" / ".abc.tmp").mkdir()


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (
            move_alias_and_edit_the_page,
            [
                r"alias 'champion': production version 1 has it in MLflow, and production version 2 \(version 2 of",
                r"pikavae-production version 2 \(champion, version 2 of candidates\): altered in MLflow: "
                r"pikavae.manifest, pikavae.promote.reason, the description",
                r"version 1 of candidates: its page in MLflow does not show its status",
            ],
        ),
        (
            spoil_the_details,
            [
                r"pikavae-production version 2 \(champion, version 2 of candidates\): altered in MLflow: "
                r"pikavae.manifest, .*pikavae.register_key, .*pikavae.store;",
            ],
        ),
        (
            delete_the_champion_and_an_alias,
            [
                r"alias 'previous': nobody has it in MLflow, and production version 1",
                r"production version 2 \(champion, .*: deleted in MLflow; `pikavae models repair` makes it again",
            ],
        ),
        (
            delete_the_registered_model,
            [r"version 2 \(champion, .*: deleted in MLflow", r"version 1 \(previous, .*: deleted in MLflow"],
        ),
        (
            swap_stored_weights_and_delete_files,
            [
                r"version 1 \(previous, .*: its files were deleted in MLflow; `pikavae models repair` makes it again",
                r"damaged in the production store: artifacts/snapshot/diff.* \(version 2 of candidates\); .* copies",
            ],
        ),
        (
            swap_served_weights_and_empty_the_store,
            [
                r"version 2 \(champion, .*: its files in MLflow were altered: artifacts/snapshot/diffusion_",
                r"gone from the production store \(version 1 of candidates\); `pikavae models repair` copies it",
            ],
        ),
        (
            delete_run_and_experiment,
            [
                r"experiment 'pikavae-production' was deleted in MLflow; `pikavae models repair` restores it",
                r"version 2 .*: the run that holds its files was deleted in MLflow",
                r"version 1 .*: the run that holds its files was deleted in MLflow",
            ],
        ),
        (
            tell_too_little_and_leave_a_part,
            [
                r"line 5 was cut short by a crash; `pikavae models repair` takes it away",
                r"line 4 of the ledger is not noted in MLflow",
                r"production/store/.abc.tmp: of a promotion that was cut short",
            ],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_harm_is_named_and_repaired(house, harm, found):
    expected = house.predict()
    past = anchor.ledger_path(house.home).read_bytes()
    harm(house)
    told = house.disagreements()
    assert [sum(re.search(pattern, line) is not None for line in told) for pattern in found] == [1] * len(told), told
    done = house.repair()
    assert done
    assert house.repair() == []
    after = anchor.ledger_path(house.home).read_bytes()
    assert after.startswith(past)
    repairs = [event for event in promote.history(house.home)[4:] if event["action"] == "repair"]
    assert all(event["state"] == "done" for event in repairs)
    assert bool(repairs) == (harm is not tell_too_little_and_leave_a_part)
    assert (house.predict() == expected).all()
    back = house.rollback()
    assert (back.version, back.previous) == (1, 2)
    assert house.disagreements(every=True) == []


def test_what_a_crash_kept_from_a_page_is_shown_with_the_next_event(house, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(moves, "show", lambda *_: None)
        house.rollback("not shown")
    assert any("pikavae.rollback.reason" in line for line in house.disagreements())
    house.rollback("shown")
    assert house.disagreements() == []
    assert production_version(house, 1).tags["pikavae.rollback.reason"] == "not shown"


def test_promotion_and_rollback_refuse_while_somebody_moved_an_alias(house):
    house.client.set_registered_model_alias(PRODUCTION_NAME, "champion", "1")
    before = house.state()
    for call in (lambda: house.promote(1), house.rollback):
        with pytest.raises(PikavaeError, match="champion 1, previous 1, but the ledger has champion 2, previous 1"):
            call()
    assert house.state() == before


def test_a_ledger_that_is_not_whole_is_never_repaired(house):
    path = anchor.ledger_path(house.home)
    whole, events = path.read_bytes(), ledger.read(path)
    lines = whole.splitlines(keepends=True)
    forged, before = [], ledger.BEGINNING
    for event in events:  # the whole chain anew, with another reason
        values = {**ledger._to_line(event), "reason": "better", "previous": before}
        del values["hash"]
        before = ledger._hash(values)
        forged.append(ledger._canonical({**values, "hash": before}) + b"\n")
    for content, complaint in (
        (whole.replace(b'"because"', b'"another"', 1), "line 1 was edited"),
        (lines[0] + lines[2] + lines[3], "line 2 does not follow the one before"),
        (b"".join(forged), "line 4 is not the one that MLflow knows: it was rewritten"),
        (b"".join(lines[:2]), "ends with line 2, but MLflow knows 4: the rest was cut off"),
        (b"", "ends with line 0, but MLflow knows 4: the rest was cut off"),
    ):
        path.write_bytes(content)
        assert complaint in house.disagreements()[0]
        for call in (lambda: house.promote(1), house.rollback, house.repair):
            with pytest.raises(DamagedFileError, match=complaint):
                call()
        assert path.read_bytes() == content
    path.write_bytes(whole)
    assert house.disagreements() == []


CODE = "serving.py", "code/*/weights/published.py"


def put_compiled_code(folder, name):
    """Compiled code as Python would run it; of a package of before where nothing kept it out."""
    (source,) = folder.glob(name)
    target = Path(importlib.util.cache_from_source(str(source)))
    if target.parent.is_file():
        target.parent.unlink()
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"foreign")
    return target


@pytest.mark.parametrize("name", CODE)
def test_compiled_code_beside_the_champions_code_is_found_and_goes(house, name):
    target = put_compiled_code(mlflow_folder(house, 2), name)
    told = "\n".join(house.disagreements())
    assert re.search(r"version 2 \(champion, .*: compiled code that does not belong to it would run", told)
    assert target.name in told
    assert "its files in MLflow were altered" in told
    assert "__pycache__" in told
    assert house.repair() != []
    assert compiled_code(mlflow_folder(house, 2)) == []


def test_compiled_code_of_a_package_of_before_goes_with_a_repair_and_with_a_rollback(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(promote, "smoke_test", files_alone)
    monkeypatch.setattr(package, "_keep_compiled_code_out", lambda made: None)
    house = House(tmp_path / "home", tmp_path)
    house.promote(1)
    house.promote(2)
    for number in (1, 2):
        put_compiled_code(mlflow_folder(house, number), "serving.py")
    assert [("compiled code" in told, "`pikavae models repair` removes it" in told) for told in house.disagreements()]
    house.rollback()
    assert compiled_code(mlflow_folder(house, 1)) == []
    (told,) = house.disagreements()
    assert re.search(r"version 2 \(previous, .*: compiled code", told)
    assert house.repair() == [
        "compiled code was removed from production version 2: __pycache__/serving.cpython-"
        f"{sys.version_info.major}{sys.version_info.minor}.pyc"
    ]


@pytest.mark.slow
def test_compiled_code_on_a_server_is_found_and_goes_with_a_repair(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setattr(package, "_keep_compiled_code_out", lambda made: None)
    house = House(tmp_path / "home", tmp_path)

    def location(number):
        return house.client.get_model_version_download_uri(PRODUCTION_NAME, str(number))

    def served_files(uri, _tracking_uri):
        return {"manifest": leftovers.hashes_at(house.client, location(int(uri.rpartition("/")[2])))}

    monkeypatch.setattr(promote, "smoke_test", served_files)
    house.promote(1)
    house.promote(2)
    (tmp_path / "serving.pyc").write_bytes(b"foreign")
    for number in (1, 2):
        repository = get_artifact_repository(location(number), tracking_uri=server)
        repository.log_artifact(str(tmp_path / "serving.pyc"), "__pycache__")
    house.rollback()  # to version 1, whose compiled code it removes
    (told,) = house.disagreements(every=True)
    assert re.search(
        r"version 2 \(previous, .*: compiled code .*__pycache__/serving.pyc; `pikavae models repair`", told
    )
    assert house.repair(every=True) == ["compiled code was removed from production version 2: __pycache__/serving.pyc"]
    assert "__pycache__/serving.pyc" not in {file.path for file in list_files(house.client, location(2))}


@pytest.mark.parametrize("name", ["x.pyc", "artifacts/snapshot/__pycache__/x.pyc", "registered_model_meta", "code/.x"])
def test_any_file_that_is_not_in_the_manifest_is_found_in_the_production_store(house, name):
    folder = store_of(house, 2)
    store.unprotect(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"foreign")
    (told,) = house.disagreements()
    assert f"damaged in the production store: {name}" in told
    house.repair()


def test_a_head_that_mlflow_lost_is_accepted_from_whom_it_is_named_by(house):
    experiment = house.client.get_experiment_by_name(PRODUCTION_NAME)
    house.client._tracking_client.store.delete_experiment_tag(experiment.experiment_id, tags.HEAD_TAG)
    head = ledger.read(anchor.ledger_path(house.home))[-1].head
    (told,) = house.disagreements()
    assert f"MLflow has no head to check its 4 events against; if you know that its last is {head}" in told
    with pytest.raises(DamagedFileError, match="has no head"):
        house.repair()
    with pytest.raises(UserError, match=f"--head 4:00: the ledger's is {head}"):
        house.repair(head="4:00")
    house.repair(head=head)
    assert "accepted by hand" in promote.history(house.home)[-1]["reason"]


def test_bytes_that_are_gone_everywhere_are_told_with_what_to_restore(house):
    folder = store_of(house, 1)
    swap_weights(folder)
    swap_weights(mlflow_folder(house, 1))
    swap_weights(local_folder(house.client.get_model_version_download_uri(NAME, "1")))
    repaired = repair_production(house.workspace)
    assert repaired.done == []
    first, second = (left.what for left in repaired.left)
    assert f"were altered: artifacts/snapshot/diffusion_pytorch_model.safetensors; and {folder} has it no more" in first
    assert "MLflow has no whole copy either: restore it from a backup, or promote the version again" in second
    assert not any(left.repairable for left in repaired.left)
    house.client.delete_model_version(NAME, "1")
    with pytest.raises(DamagedFileError, match="damaged in the production store"):
        house.rollback()


def test_another_home_on_the_same_store_is_refused(house, tmp_path):
    other = replace_home(house, tmp_path / "other")
    assert "kept by the home" in other.disagreements()[0]
    for call in (lambda: other.promote(1), other.rollback, other.repair):
        with pytest.raises(DamagedFileError, match=rf"is kept by the home .*:{house.home}: promote there"):
            call()
    assert house.disagreements() == []


def replace_home(house, folder):
    other = object.__new__(type(house))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", house.workspace.tracking_uri)
        other.workspace = Workspace(folder)
    return other


def test_the_commands_tell_by_exit_status_and_json(house, monkeypatch, capsys):
    monkeypatch.setenv("PIKAVAE_HOME", str(house.home))
    assert cli.main(["models", "verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["num_events"], told["num_folders"], told["disagreements"]) == (4, 2, [])
    assert told["head"] == ledger.read(anchor.ledger_path(house.home))[-1].head
    house.client.delete_registered_model_alias(PRODUCTION_NAME, "previous")
    assert cli.main(["models", "verify", "--json"]) == 1
    said = capsys.readouterr()
    (left,) = json.loads(said.out.splitlines()[-1])["disagreements"]
    assert left["what"] in said.err
    assert (left["about"], left["repairable"]) == ("alias", True)
    assert cli.main(["models", "repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "done": ["alias 'previous' was moved from nobody to 1"],
        "left": [],
    }
    assert cli.main(["models", "repair"]) == 0
    assert capsys.readouterr().out == "there was nothing to repair\n"
    assert cli.main(["models", "verify", "--all"]) == 0


def test_an_event_of_before_shown_reads_as_it_did(house):
    (first, *_) = ledger.read(anchor.ledger_path(house.home))
    assert first.page_fields["metrics"] == {"val/psnr": 21.0}
    assert "shown" not in ledger._to_line(replace(first, page_fields={}))
    assert ledger.as_json(first)["shown"]["tags"]["pikavae.fingerprint"] == "abc"
