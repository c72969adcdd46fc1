"""Champions are signed by a key that no home holds, so that who can write home and MLflow cannot forge them."""

import json
import os
import shutil
import stat
from contextlib import ExitStack

import pytest

from flows.cli import main
from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.operations.resolving.resolve import of_version
from pikavae.production.changes import anchor, promote, signatures
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.packages import signing, store
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.packages.smoke import smoke_test
from pikavae.production.record import ledger
from pikavae.registry import versions
from pikavae.registry.package import file_hashes
from pikavae.tracker.mlflow_files import local_folder
from tests.support.house import NAME


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A key that signs and is trusted; the other of two."""
    return use(tmp_path / "keys" / "first", monkeypatch)


def new_key(path):
    path.parent.mkdir(exist_ok=True)
    return signing.make_key(str(path))


def use(path, monkeypatch, trusted=None):
    """Sign with a new key from now on, and trust it or others."""
    made = new_key(path)
    monkeypatch.setenv(signing.SIGNING_KEY, str(path))
    monkeypatch.setenv(signing.TRUSTED_KEYS, trusted or str(made.path))
    return made


def stop_signing(monkeypatch):
    monkeypatch.delenv(signing.SIGNING_KEY, raising=False)
    monkeypatch.delenv(signing.TRUSTED_KEYS, raising=False)


def production_version(house, number=1):
    return versions.get_version(house.client, PRODUCTION_NAME, number)


def served_folder(house, number=1):
    return local_folder(house.client.get_model_version_download_uri(PRODUCTION_NAME, str(number)))


def last(house):
    return ledger.read(ledger_path(house.home))[-1]


def forge(house):
    """Replace the champion's weights everywhere, as one who may write home and MLflow, and make all of it agree."""
    events = ledger.read(ledger_path(house.home))
    before = events[-1]
    served = served_folder(house)
    weights = served / "artifacts" / "snapshot" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    manifest = file_hashes(served)
    digest = store.digest_of(manifest)
    store.remove(store.folder_of(house.home, before.manifest))
    shutil.copytree(served, store.folder_of(house.home, manifest))
    store.protect(store.folder_of(house.home, manifest))
    lines, previous = [], ledger.BEGINNING
    for event in events:
        entry = event.entry(manifest=manifest, digest=digest)
        values = {"sequence": event.sequence, "time": event.time, **ledger._to_line(entry), "previous": previous}
        previous = ledger._hash(values)
        lines.append(ledger._canonical({**values, "hash": previous}) + b"\n")
    ledger_path(house.home).write_bytes(b"".join(lines))
    anchor.write(house.workspace, ledger.read(ledger_path(house.home)))
    house.repair()


def test_a_promotion_is_signed_beside_its_package_and_the_ledger_says_by_which_key(house, quick, key):
    house.promote(1)
    event = last(house)
    assert event.signed_by == key.name
    folder = store.folder_of(house.home, event.manifest)
    assert file_hashes(folder) == event.manifest  # nothing was put into it
    assert signing.complaint_about(folder, signing.signatures_folder(house.home, event.digest), [key]) is None
    assert house.disagreements() == []
    shown = house.client.list_artifacts(production_version(house).run_id, "signatures")
    assert [file.path for file in shown] == [f"signatures/{key.name}.json"]
    house.promote(2)
    assert house.rollback().version == 1
    assert last(house).signed_by == key.name
    assert house.disagreements(every=True) == []


def test_the_private_key_is_named_in_no_record(house, quick, key, caplog):
    house.promote(1)
    place = os.environ[signing.SIGNING_KEY].encode()
    assert not [path for path in house.home.rglob("*") if path.is_file() and place in path.read_bytes()]
    assert place.decode() not in caplog.text


@pytest.mark.parametrize("with_own_key", [False, True])
def test_who_forges_bytes_ledger_anchor_and_mlflow_is_found_by_the_signature_alone(
    house, quick, key, tmp_path, monkeypatch, with_own_key
):
    house.promote(1)
    trusted = os.environ[signing.TRUSTED_KEYS]
    stop_signing(monkeypatch)
    forge(house)
    if with_own_key:
        shutil.rmtree(house.home / "production" / "signatures")
        use(tmp_path / "keys" / "forger", monkeypatch)
        signatures.sign_production(house.workspace, reason="all is well")
        stop_signing(monkeypatch)
    assert house.disagreements(every=True) == []  # without keys nothing shows it
    monkeypatch.setenv(signing.TRUSTED_KEYS, trusted)
    (found,) = house.disagreements()
    assert "champion, version 1 of candidates" in found
    assert ("and no trusted key" if with_own_key else "is of other files (Signature mismatch") in found
    assert "find out who changed what" in found
    with pytest.raises(DamagedFileError, match=r"refused: .* is of other files"):
        of_version(house.workspace, production_version(house))


def test_a_signature_by_a_key_that_nobody_trusts_counts_for_nothing(house, quick, key, tmp_path, monkeypatch):
    house.promote(1)
    monkeypatch.setenv(signing.TRUSTED_KEYS, str(new_key(tmp_path / "keys" / "other").path))
    (found,) = house.disagreements()
    assert f"signed by {key.name[:12]} alone, and no trusted key" in found


def test_damage_to_a_signature_is_named(house, quick, key):
    house.promote(1)
    path = signing.signature_path(house.home, last(house).digest, key.name)
    whole = path.read_text()
    bundle = json.loads(whole)
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    for text, said in (
        ("", "is damaged"),
        ("[]", "is damaged"),
        (whole.replace(key.name, "0" * 64), "names another key"),
        (json.dumps(bundle), "was not made by that key"),
    ):
        path.write_text(text)
        (found,) = house.disagreements()
        assert said in found


def test_keys_rotate_while_both_are_trusted(house, quick, key, tmp_path, monkeypatch):
    house.promote(1)
    second = use(tmp_path / "keys" / "second", monkeypatch, trusted=str(tmp_path / "keys"))  # the folder of both
    assert house.disagreements() == []
    done = signatures.sign_production(house.workspace, reason="a new key")
    assert (done.key, done.versions, done.already) == (second.name, {"champion": 1}, {})
    assert signatures.sign_production(house.workspace, reason="again").already == {"champion": 1}
    monkeypatch.setenv(signing.TRUSTED_KEYS, str(second.path))  # the first is trusted no more
    assert house.disagreements() == []
    event = last(house)
    assert (event.action, event.signed_by, event.reason) == ("sign", second.name, "a new key")


def test_a_champion_from_before_is_named_with_the_command_that_signs_it(house, quick, tmp_path, monkeypatch):
    house.promote(1)
    house.promote(2)
    made = use(tmp_path / "keys" / "first", monkeypatch)
    assert len(house.disagreements()) == 2
    assert (
        "it is not signed; if you know that its files are right, `pikavae sign --reason TEXT`"
        in (house.disagreements()[0])
    )
    with pytest.raises(DamagedFileError, match="not signed"):
        house.rollback()
    assert signatures.sign_production(house.workspace, reason="first key").versions == {"champion": 2, "previous": 1}
    assert house.disagreements() == []
    assert {event.signed_by for event in ledger.read(ledger_path(house.home))[-2:]} == {made.name}
    house.rollback()


def test_nothing_is_promoted_without_a_key_where_keys_are_trusted(house, quick, key, tmp_path, monkeypatch):
    before = house.state()
    monkeypatch.delenv(signing.SIGNING_KEY)
    with pytest.raises(UserError, match="PIKAVAE_SIGNING_KEY: not set, and PIKAVAE_TRUSTED_KEYS asks for signed"):
        house.promote(1)
    new_key(tmp_path / "keys" / "other")
    monkeypatch.setenv(signing.SIGNING_KEY, str(tmp_path / "keys" / "other"))
    with pytest.raises(UserError, match="is not among those of PIKAVAE_TRUSTED_KEYS"):
        house.promote(1)
    assert house.state() == before


def test_what_one_of_home_and_mlflow_lost_is_copied_from_the_other(house, quick, key, monkeypatch):
    house.promote(1)
    shutil.rmtree(house.home / "production" / "signatures")
    stop_signing(monkeypatch)
    (found,) = house.disagreements()
    assert "is gone; `pikavae models repair` copies it from MLflow" in found
    assert f"the signature of version 1 by key {key.name[:12]} was copied from MLflow" in house.repair()
    shutil.rmtree(local_folder(house.client.get_run(production_version(house).run_id).info.artifact_uri) / "signatures")
    assert f"the signature of version 1 by key {key.name[:12]} was copied to MLflow" in house.repair()
    monkeypatch.setenv(signing.TRUSTED_KEYS, str(key.path))
    assert house.disagreements() == []


@pytest.mark.parametrize("signed", [False, True])
def test_a_promotion_that_dies_before_or_after_its_signature_leaves_what_repair_removes(house, quick, key, signed):
    candidate = versions.get_version(house.client, NAME, 1)
    folder = store.keep(house.workspace, candidate, ExitStack())
    if signed:
        signing.signer_of_environment().sign(house.home, folder)
    done = house.repair()
    assert any(line.startswith("production/store/") for line in done)
    assert any(line.startswith("production/signatures/") for line in done) == signed
    house.promote(1)
    assert house.disagreements() == []


def test_a_key_is_for_its_owner_alone_and_its_password_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(signing.SIGNING_PASSWORD, "open sesame")
    assert main(["sign", "--make-key", str(tmp_path / "key"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert "open sesame" not in json.dumps(made)
    assert signing.read_signer(tmp_path / "key").name == made["key"]
    assert main(["sign", "--make-key", str(tmp_path / "key")]) == 2
    assert "File exists; name a new file" in capsys.readouterr().err
    monkeypatch.setenv(signing.SIGNING_PASSWORD, "wrong")
    with pytest.raises(UserError, match="PIKAVAE_SIGNING_PASSWORD is not its password"):
        signing.read_signer(tmp_path / "key")
    monkeypatch.delenv(signing.SIGNING_PASSWORD)
    with pytest.raises(UserError, match="it has a password; set PIKAVAE_SIGNING_PASSWORD"):
        signing.read_signer(tmp_path / "key")
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path / "key.pub", "no private key in PEM form")):
        with pytest.raises(UserError, match=said):
            signing.read_signer(path)
    for named, said in ((tmp_path / "none", "No such file"), (tmp_path / "key", "no public key in PEM form")):
        monkeypatch.setenv(signing.TRUSTED_KEYS, str(named))
        with pytest.raises(UserError, match=said):
            signing.trusted_keys()


@pytest.mark.slow
def test_a_consumer_with_a_key_refuses_what_is_not_signed_before_its_code_runs(house, tmp_path, monkeypatch):
    monkeypatch.setattr(promote, "smoke_test", smoke_test)
    key = use(tmp_path / "keys" / "first", monkeypatch)
    house.promote(1)  # its smoke test is such a consumer
    monkeypatch.setenv(signing.TRUSTED_KEYS, str(new_key(tmp_path / "keys" / "other").path))
    with pytest.raises(PikavaeError, match="refused: no trusted key has signed it"):
        smoke_test(f"models:/{PRODUCTION_NAME}/1", house.client.tracking_uri)
    monkeypatch.setenv(signing.TRUSTED_KEYS, str(key.path))
    (served_folder(house) / "serving.py").write_text("raise SystemExit('forged code ran')")
    with pytest.raises(PikavaeError, match="refused: its signature is not of these files"):
        smoke_test(f"models:/{PRODUCTION_NAME}@champion", house.client.tracking_uri)
