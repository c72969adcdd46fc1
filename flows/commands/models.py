"""Show, verify and repair the registry: the commands that begin with `models`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.terminal.command import Arguments, Result
from flows.terminal.options import Options, RepairOptions, VerifyOptions
from flows.terminal.tables import brief, columns, label_text, minute, shorten, table
from pikavae.errors import DisagreementError
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.tracker.labels import own_tags
from pikavae.tracker.tags import (
    CHAMPION,
    COMMIT_TAG,
    DIRTY_TAG,
    FINGERPRINT_TAG,
    IMPORT_FORM_TAG,
    IMPORT_TAG,
    PREVIOUS,
    REPORT_TAG,
)
from pikavae.workspace.disks import format_bytes

if TYPE_CHECKING:
    from pikavae.operations import Listed, Repaired, Verified

NAME_LENGTH = 60
"""How many characters of a run's name the list shows."""
SCORES = ("psnr", "psnr_worst_tenth", "ssim", "lpips", "rfid", "scaling_factor")
"""The few numbers that a person compares."""


def list_models(arguments: Arguments[Options]) -> Result:
    """List the candidates, the newest first."""
    from pikavae import operations

    return list_result(operations.registered_versions(arguments.workspace, arguments.config))


def show_model(arguments: Arguments[Options]) -> Result:
    """Show a version: its scores, what its gates found, who approved it."""
    from pikavae import operations

    number = operations.number_of(arguments.workspace, arguments.names[0], arguments.config)
    return version_result(operations.registered_version(arguments.workspace, number, arguments.config))


def lineage(arguments: Arguments[Options]) -> Result:
    """Show the way from the source of a version's pictures to its alias."""
    from pikavae import operations

    number = operations.number_of(arguments.workspace, arguments.names[0], arguments.config)
    links = operations.lineage(arguments.workspace, number, arguments.config)
    lines = [_wrap_link(brief(operations.line_of(link))) for link in links]
    return {"lineage": [asdict(link) for link in links]}, "\n".join(lines)


def history(arguments: Arguments[Options]) -> Result:
    """Show the ledger."""
    from pikavae import operations

    return history_result(operations.history(arguments.workspace))


def verify(arguments: Arguments[VerifyOptions]) -> Result:
    """Check that ledger, bytes, versions and aliases agree.

    Raises:
        DisagreementError: something does not agree.
    """
    from pikavae import operations

    return verification_result(operations.verify_and_tell(arguments.workspace, every=arguments.options.all))


def repair(arguments: Arguments[RepairOptions]) -> Result:
    """Put back what a crash or a hand in MLflow changed.

    Raises:
        DisagreementError: something could not be repaired.
    """
    from pikavae import operations

    options = arguments.options
    return repair_result(operations.repair_production(arguments.workspace, every=options.all, head=options.head))


def list_result(found: list[Listed]) -> Result:
    """Return a table of versions."""
    rows = [
        [
            str(item.version.version),
            _roles(item),
            minute(item.version.created)[:10],
            _score(item),
            _data(item),
            shorten(item.run_name or f"run {item.version.run_id[:8]}, deleted", NAME_LENGTH),
        ]
        for item in found
    ]
    lines = table(["VERSION", "ROLE", "DATE", "SCORE", "DATA", "RUN"], rows, 4) if rows else []
    return (
        {"versions": [_json(item) for item in found]},
        "\n".join(lines) or "no version is registered yet; `pikavae run` registers one",
    )


def version_result(item: Listed) -> Result:
    """Return what is known of a version, a line for each fact."""
    version, metrics = item.version, item.version.metrics
    lines = [
        f"{version.name} version {version.version}: {_roles(item)}",
        "",
        label_text("score", ", ".join(_scores(metrics)) or "not measured yet; `pikavae evaluate` measures it"),
        label_text("data set", f"{_data(item)}{_name_set(version.tags)}"),
        label_text("made", f"{minute(version.created)} UTC by run {version.run_id[:8]} ({item.run_name or 'deleted'})"),
        *([label_text("note", " ".join(item.run_note.split()))] if item.run_note else []),
        *_status_lines(item),
        *_tag_lines(version.tags),
        *(label_text("tag of run", f"{name}: {value}") for name, value in item.run_tags.items()),
        label_text("used", _used(item)),
        label_text("files", f"{len(version.manifest)}; all hashes: pikavae models show {version.version} --json"),
        label_text("lineage", f"pikavae models lineage {version.version}"),
    ]
    return {"versions": [_json(item)]}, "\n".join(lines)


def _status_lines(item: Listed) -> Iterator[str]:
    """Yield the gates' verdict, and who approved."""
    gate, approval = item.status.gate, item.status.approval
    if gate is None or approval is None:
        yield label_text("gates", "not asked yet; `pikavae promote` asks them")
        return
    against = f" against version {gate.champion}" if gate.champion else ""
    overridden = f", overridden: {', '.join(gate.overridden)}" if gate.overridden else ""
    yield label_text(
        "gates", f"{gate.outcome}{against}{overridden}; asked {minute(gate.time)} UTC by {gate.asked_by}: {gate.reason}"
    )
    by = f" {minute(approval.time)} UTC by {approval.by}: {approval.reason}" if approval.time else ""
    until = f" until {minute(approval.until)} UTC" if approval.until else ""
    yield label_text("approval", f"{approval.state}{until}{by}")


def _tag_lines(tags: Mapping[str, str]) -> Iterator[str]:
    """Yield where the version came from, and the tags that people gave it."""
    if source := tags.get(IMPORT_TAG):
        yield label_text("imported", f"{source}, {tags.get(IMPORT_FORM_TAG, 'weights')}")
    if commit := tags.get(COMMIT_TAG):
        changes = ", with changes" if tags.get(DIRTY_TAG) else ""
        yield label_text("code", f"commit {commit[:8]}{changes}")
    if report := tags.get(REPORT_TAG):
        yield label_text("report", f"evaluations/{report}/report.html in the state folder")
    for name, value in own_tags(tags).items():
        yield label_text("tag", f"{name}: {value}")


def _scores(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield the metrics of `SCORES` that were measured."""
    for metric in map(METRICS.__getitem__, SCORES):
        if (value := metrics.get(f"val/{metric.name}")) is not None:
            yield f"{metric.title} {metric.text(value)}"


def _used(item: Listed) -> str:
    """Return what the run used, in words."""
    if item.used is None:
        return "not recorded: its run is of an earlier pikavae, or of another state folder"
    disk = f"; its folder takes {format_bytes(item.disk_bytes)}" if item.disk_bytes else ""
    return f"{item.used.text()}, for training and evaluations{disk}"


def _roles(item: Listed) -> str:
    """Return the version's role by the ledger, and its other aliases in MLflow."""
    role = item.status.role
    return ", ".join([role, *sorted({*item.version.aliases} - {CHAMPION, PREVIOUS, role})])


def _score(item: Listed) -> str:
    metric = METRICS[item.primary_metric]
    return "-" if item.score is None else f"{metric.format(item.score)} {metric.unit or metric.title}"


def _data(item: Listed) -> str:
    size = f", {item.image_size} px" if item.image_size else ""
    return f"{item.source}{size}" if item.source else "unknown"


def _name_set(tags: Mapping[str, str]) -> str:
    return f"; prepared set {tags[FINGERPRINT_TAG][:8]}" if tags.get(FINGERPRINT_TAG) else ""


def _json(item: Listed) -> dict[str, Any]:
    return {
        **asdict(item.version),
        "created": item.version.created.isoformat(),
        **asdict(item.status),
        "run_name": item.run_name,
        "run_note": item.run_note,
        "run_tags": dict(item.run_tags),
        "data_source": item.source,
        "image_size": item.image_size,
        "primary_metric": item.primary_metric,
        "used": None if item.used is None else {**item.used.numbers(), "disk_bytes": item.disk_bytes},
    }


def _wrap_link(line: str) -> str:
    """Wrap a line of the lineage if it is long, with the rest beside its name."""
    label, text = line[:14].strip(), line[14:]
    return label_text(label, text) if len(line) > columns() else line


def verification_result(found: Verified) -> Result:
    """Return that everything agrees with the ledger.

    Raises:
        DisagreementError: something does not agree.
    """
    result = asdict(found)
    if found.disagreements:
        raise DisagreementError("\n".join(left.what for left in found.disagreements), result)
    head = f", the last of them {found.head}" if found.head else ""
    signed = f"; {found.num_signed} signatures are of trusted keys" if found.num_signed else ""
    read = f"{found.num_folders} versions read byte by byte"
    return result, f"{found.num_events} events{head}; {read}{signed}: everything agrees"


def repair_result(found: Repaired) -> Result:
    """Return what was repaired.

    Raises:
        DisagreementError: something could not be repaired.
    """
    result = asdict(found)
    if found.left:
        raise DisagreementError("\n".join([*found.done, *(left.what for left in found.left)]), result)
    return result, "\n".join(found.done) or "there was nothing to repair"


def history_result(events: list[dict[str, Any]]) -> Result:
    """Return a table of what was asked for, approved and made champion, when, by whom and why."""
    rows = [
        [minute(event["time"]), event["action"], _describe_move(event), event["actor"], event["reason"]]
        for event in events
        if event["state"] == "done"
    ]
    lines = table(["TIME (UTC)", "WHAT", "VERSION", "WHO", "WHY"], rows, 3) if rows else []
    return {"events": events}, "\n".join(
        lines
    ) or "nothing was promoted yet; `pikavae promote VERSION --reason TEXT` asks for it"


def _describe_move(event: dict[str, Any]) -> str:
    if event["action"] in {"promote", "rollback"}:
        return f"{event['champion_before'] or '-'} -> {event['champion_after']}"
    if event["action"] == "rules":
        return "-"
    forced = f", overridden: {', '.join(event['overridden'])}" if event["overridden"] else ""
    return f"{event['version']} ({(event['verdicts'] or {}).get('outcome', '?')}{forced})"
