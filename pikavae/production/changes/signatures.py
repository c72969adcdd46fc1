"""Signs what is in production, shows signatures in MLflow, and says which of them are missing or wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pikavae.errors import DamagedFileError, UserError
from pikavae.production.changes.entries import entry_about
from pikavae.production.changes.moves import append_event, open_ledger
from pikavae.production.packages import signing, store
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.packages.signing import SHOWN, complaint_about, signatures_folder, signed_by
from pikavae.production.record import ledger
from pikavae.production.record.identity import identity_of
from pikavae.production.record.ledger import Event, expected_aliases
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER, file_hashes
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import fetch
from pikavae.workspace.files import write_atomically

ARTIFACTS = "signatures"
"""The folder of signatures among the artifacts of the run that holds a version's files."""


@dataclass(frozen=True)
class Signed:
    """Says what was signed.

    Attributes:
        key: the name of the key.
        versions: the candidates that have a new signature, by their role.
        already: those that had one of this key.
    """

    key: str
    versions: Mapping[str, int]
    already: Mapping[str, int]


def sign_production(workspace: Workspace, *, reason: str, actor: str | None = None) -> Signed:
    """Sign champion and previous champion with the key of the environment, and record it in the ledger.

    Args:
        workspace: the state folder and its store.
        reason: for the ledger; any text that is not empty.
        actor: who signs, by default whom `identity_of` names.

    Raises:
        UserError: there is no key, or the reason is empty.
        DamagedFileError: the files in the production store, or the ledger, are not as they were written.
    """
    signer = signing.signer_of_environment()
    if signer is None:
        raise UserError(
            f"sign: {signing.SIGNING_KEY} is not set; set it to the file of your private key (`pikavae sign --make-key "
            f"FILE` makes one)"
        )
    if not reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")
    new, already, trusted = dict[str, int](), dict[str, int](), signing.trusted_keys()
    with open_ledger(workspace) as events:
        for alias, event in events_in_use(events).items():
            folder = store.folder_of(workspace.home, event.manifest)
            store.verify_folder(folder, event.manifest)
            signatures = signatures_folder(workspace.home, event.digest)
            own = [key for key in trusted if key.name == signer.name]
            is_signed = signer.name in signed_by(signatures)
            if is_signed and not (own and complaint_about(folder, signatures, own)):
                already[alias] = event.version
            else:
                signer.sign(workspace.home, folder)
                new[alias] = event.version
            made = versions.get_version(workspace.client, PRODUCTION_NAME, event.production_version or 0)
            show_signatures(workspace, made)
            if alias in new:
                who, places = actor or identity_of(workspace), expected_aliases(events)
                entry = entry_about(event, events, places, action="sign", state="done", reason=reason, actor=who)
                events.append(append_event(workspace, replace(entry, signed_by=signer.name)))
    return Signed(signer.name, new, already)


def show_signatures(workspace: Workspace, made: Version) -> None:
    """Copy the signatures of a production version into the run that holds its files, where its users find them."""
    folder = signatures_folder(workspace.home, store.digest_of(made.manifest))
    for name in signed_by(folder):
        workspace.client.log_artifact(made.run_id, str(folder / f"{name}.json"), ARTIFACTS)


def restore_signatures(workspace: Workspace, events: Sequence[Event]) -> list[str]:
    """Put back signatures of champion and previous that one of home and MLflow has lost, and return what was done.

    Nothing is signed: a repair that signs would vouch for whatever it finds.
    """
    done, client = [], workspace.client
    for event in events_in_use(events).values():
        home, run_id = signatures_folder(workspace.home, event.digest), _run_of(workspace, event)
        if run_id is None:
            continue
        shown = {Path(file.path).stem for file in client.list_artifacts(run_id, ARTIFACTS)}
        for key in sorted(shown - {*signed_by(home)}):
            with tempfile.TemporaryDirectory() as folder:
                found = Path(client.download_artifacts(run_id, f"{ARTIFACTS}/{key}.json", folder))
                write_atomically(home / f"{key}.json", found.read_bytes())
            done.append(f"the signature of version {event.version} by key {key[:SHOWN]} was copied from MLflow")
        for key in sorted({*signed_by(home)} - shown):
            client.log_artifact(run_id, str(home / f"{key}.json"), ARTIFACTS)
            done.append(f"the signature of version {event.version} by key {key[:SHOWN]} was copied to MLflow")
    return done


def complaints(workspace: Workspace, events: Sequence[Event]) -> list[tuple[str, bool]]:
    """Return what is wrong with the signatures of champion and previous, and if `repair` can fix it."""
    found, trusted = [], signing.trusted_keys()
    for alias, event in events_in_use(events).items():
        what = f"{alias}, version {event.version} of {event.model}"
        folder = store.folder_of(workspace.home, event.manifest)
        signatures = signatures_folder(workspace.home, event.digest)
        if trusted and (complaint := complaint_about(folder, signatures, trusted)) is not None:
            found.append((f"{what}: {complaint}; {_remedy(event)}", False))
        elif event.signed_by and event.signed_by not in signed_by(signatures):
            run_id = _run_of(workspace, event)
            files = [] if run_id is None else workspace.client.list_artifacts(run_id, ARTIFACTS)
            is_shown = event.signed_by in {Path(file.path).stem for file in files}
            remedy = "`pikavae models repair` copies it from MLflow" if is_shown else _remedy(event)
            found.append((f"{what}: its signature by key {event.signed_by[:SHOWN]} is gone; {remedy}", is_shown))
    return found


def require_signature(home: Path, event: Event) -> None:
    """Check that a trusted key vouches for a version in the production store, if keys are trusted.

    Raises:
        DamagedFileError: none does.
    """
    folder, trusted = store.folder_of(home, event.manifest), signing.trusted_keys()
    if trusted and (complaint := complaint_about(folder, signatures_folder(home, event.digest), trusted)) is not None:
        raise DamagedFileError(f"version {event.version} of {event.model}: {complaint}; {_remedy(event)}")


def refuse_unsigned(workspace: Workspace, version: Version, snapshot: Path) -> None:
    """Check that a trusted key vouches for the files of a production version in MLflow, if keys are trusted.

    Args:
        workspace: the state folder and its store.
        version: a version of the production model.
        snapshot: its snapshot folder, in its package or copied from a server.

    Raises:
        DamagedFileError: none does; nothing of its code was run.
    """
    if not (trusted := signing.trusted_keys()):
        return
    client = workspace.client
    with tempfile.TemporaryDirectory() as folder:
        signatures = Path(folder, ARTIFACTS)
        signatures.mkdir()
        for file in client.list_artifacts(version.run_id, ARTIFACTS):
            found = Path(client.download_artifacts(version.run_id, file.path, folder))
            write_atomically(signatures / found.name, found.read_bytes())
        package = snapshot.parents[1]
        if not (package / "MLmodel").is_file():
            package = Path(folder, "package")
            package.mkdir()
            fetch(client, client.get_model_version_download_uri(version.name, str(version.version)), package)
        complaint = complaint_about(package, signatures, trusted)
        if complaint is None and file_hashes(package / SNAPSHOT_FOLDER) != file_hashes(snapshot):
            complaint = f"{snapshot} has other files than those that were signed"
    if complaint is not None:
        raise DamagedFileError(f"{version.name} version {version.version}: refused: {complaint}")


def events_in_use(events: Sequence[Event]) -> dict[str, Event]:
    """Return the ledger's last event about each production version that an alias belongs to, by alias."""
    found = {alias: ledger.of_production(events, number) for alias, number in expected_aliases(events).items()}
    return {alias: event for alias, event in found.items() if event is not None}


def _run_of(workspace: Workspace, event: Event) -> str | None:
    """Return the run that holds a version's files; None if MLflow does not have the version."""
    listed = versions.list_versions(workspace.client, PRODUCTION_NAME)
    return next((made.run_id for made in listed if made.version == event.production_version), None)


def _remedy(event: Event) -> str:
    if event.signed_by:
        return "find out who changed what: its files, its ledger or its signature are not those that were signed"
    return "if you know that its files are right, `pikavae sign --reason TEXT` signs champion and previous"
