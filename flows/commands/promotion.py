"""Move the champion: ask for a promotion, approve it, roll back; and set the rules for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.terminal.command import Arguments, Result
from flows.terminal.options import Options, PromoteOptions, ReasonOptions, RulesOptions, SignOptions
from flows.terminal.tables import label_text, minute
from pikavae.errors import GateError, UserError

if TYPE_CHECKING:
    from pikavae.operations import Promoted, Rules, Workspace


def promote(arguments: Arguments[PromoteOptions]) -> Result:
    """Ask for a version to become champion.

    Raises:
        GateError: a gate refused, or the version waits for approval.
    """
    from pikavae import operations

    options = arguments.options
    workspace = arguments.workspace
    candidate = operations.find_or_register(workspace, arguments.names[0], arguments.config)
    done = operations.promote(workspace, candidate, arguments.config, reason=options.reason, force=options.force)
    if done.command is None:
        return done.result(), _describe(done)
    gates = operations.verdict_lines(workspace, done.verdicts)
    rules = operations.current_rules(workspace)
    lines = [f"version {done.version} waits for approval:", *gates, *_who_approves(rules), done.command]
    raise GateError("\n".join(lines), done.result())


def approve(arguments: Arguments[ReasonOptions]) -> Result:
    """Complete a promotion that was asked for."""
    (version,) = arguments.names
    if not version.isdecimal():
        raise UserError(f"approve {version!r}: name one version number; `pikavae models list` lists them")
    from pikavae import operations

    done = operations.approve(arguments.workspace, int(version), arguments.config, reason=arguments.options.reason)
    return done.result(), _describe(done)


def rollback(arguments: Arguments[ReasonOptions]) -> Result:
    """Make the previous champion the champion again."""
    from pikavae import operations

    done = operations.rollback(arguments.workspace, reason=arguments.options.reason)
    return done.result(), f"version {done.version} is champion again"


def sign(arguments: Arguments[SignOptions]) -> Result:
    """Sign what is in production, or make a key."""
    from pikavae import operations

    options = arguments.options
    if options.make_key is not None:
        made = operations.make_key(options.make_key)
        private = str(made.path).removesuffix(".pub")
        lines = [
            f"wrote {private}, the private key: keep it where nobody who may write the state folder can read it",
            f"wrote {made.path}, the public key {made.name[:12]}: give it to those who use the champion",
        ]
        return {"private": private, "public": str(made.path), "key": made.name}, "\n".join(lines)
    done = operations.sign_production(arguments.workspace, reason=options.reason)
    lines = [f"signed {role}, version {number}, by key {done.key[:12]}" for role, number in done.versions.items()]
    lines += [f"{role}, version {number}, was signed by that key already" for role, number in done.already.items()]
    result = {"key": done.key, "signed": dict(done.versions), "already": dict(done.already)}
    return result, "\n".join(lines) or "nothing is in production yet"


def show_rules(arguments: Arguments[Options]) -> Result:
    """Show the rules in force, and who acts now."""
    from pikavae import operations

    return _rules_result(arguments.workspace, operations.current_rules(arguments.workspace))


def set_rules(arguments: Arguments[RulesOptions]) -> Result:
    """Put rules in force, in place of those of before."""
    from pikavae import operations

    options = arguments.options
    wanted = operations.Rules(
        approvers=_approvers(options.approver),
        two_people=options.two_people,
        request_days=options.request_days,
        automatic=options.automatic,
    )
    done = operations.set_rules(arguments.workspace, wanted, reason=options.reason)
    return _rules_result(arguments.workspace, done)


def _approvers(named: tuple[str, ...]) -> list[str]:
    """Return the approvers, each once.

    Raises:
        UserError: one is no identity that a person can have.
    """
    for name in named:
        account, _, host = name.partition("@")
        is_identity = bool(name.removeprefix("mlflow:")) if name.startswith("mlflow:") else bool(account and host)
        if not is_identity or name.startswith("prefect:") or any(letter.isspace() for letter in name):
            raise UserError(
                f"--approver {name!r}: expected USER@HOST, or mlflow:NAME for an account of MLflow's server; "
                f"`pikavae rules` says who you are"
            )
    return sorted({*named})


def _rules_result(workspace: Workspace, rules: Rules) -> Result:
    from pikavae import operations

    you, setting = operations.identity_of(workspace), operations.who_set_rules(workspace)
    days = rules.request_days
    lines = [
        label_text("approvers", ", ".join(rules.approvers) or "anybody"),
        label_text("two people", "whoever asks may not approve" if rules.two_people else "whoever asks may approve"),
        label_text("requests", f"expire after {days} day{'s' * (days > 1)}" if days else "do not expire"),
        label_text("automatic", "no, a person approves" if rules.need_person else "if promotion.approval says so"),
        label_text("set", f"{minute(setting[1])} UTC by {setting[0]}: {setting[2]}" if setting else "never"),
        label_text("you are", you),
    ]
    set_by = None if setting is None else dict(zip(("actor", "time", "reason"), setting, strict=True))
    return {"rules": rules.model_dump(mode="json"), "set": set_by, "you": you}, "\n".join(lines)


def _who_approves(rules: Rules) -> list[str]:
    """Return a line that says who may approve by the rules and for how long, if they say so."""
    people = [*(["another person than you"] if rules.two_people else []), *rules.approvers]
    said = [f"by {', '.join(people)}"] if people else []
    if rules.request_days:
        said.append(f"within {rules.request_days} days")
    return [f"The rules: {' '.join(said)}."] if said else []


def _describe(done: Promoted) -> str:
    state = "is champion" if done.changed else "is champion already"
    return f"version {done.version} {state} (production version {done.production_version})"
