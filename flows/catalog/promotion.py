"""List the commands of promotion and of the registry."""

from __future__ import annotations

from flows.catalog.shared import IMPORTED, MEASURED, MODEL, NAMED
from flows.commands import models, promotion
from flows.terminal import options
from flows.terminal.command import Command, Positional

PROMOTION_COMMANDS: dict[str, Command] = {
    "promote": Command(
        promotion.promote,
        "Ask for a version to become champion.",
        about="Gates measure it beside the champion. A person completes the promotion with `approve`, unless "
        "promotion.approval is automatic.",
        positionals=(
            Positional(
                "MODEL",
                "a version number, run:<id>[@step or @best], or a folder or file of weights",
                "name one version number, or run:<id>[@step or @best]",
            ),
        ),
        options=options.PromoteOptions,
        settings=(*MEASURED, *IMPORTED, "promotion"),
        base="model",
        examples=('promote 3 --reason "sharper eyes"', 'promote 3 --reason "new data" --promotion.psnr-floor 24'),
        tells=True,
    ),
    "approve": Command(
        promotion.approve,
        "Complete a promotion that was asked for.",
        about="Settings of section promotion must be those that `promote` was given; it prints the whole line.",
        positionals=(
            Positional("VERSION", "a version number", "name one version number; `pikavae models list` lists them"),
        ),
        options=options.ReasonOptions,
        settings=("registry.model_name", "promotion"),
        base="model",
        examples=('approve 3 --reason "looked at the worst pictures"', 'approve 12 --reason "as agreed" --json'),
        tells=True,
    ),
    "rollback": Command(
        promotion.rollback,
        "Make the previous champion the champion again.",
        about="No gate is asked: it was champion before.",
        options=options.ReasonOptions,
        examples=('rollback --reason "banding in dark pictures"', 'rollback --reason "as agreed" --json'),
        tells=True,
    ),
    "sign": Command(
        promotion.sign,
        "Sign champion and previous champion with a key of your own.",
        about="The variable PIKAVAE_SIGNING_KEY names the file of the private key, PIKAVAE_SIGNING_PASSWORD its "
        "password. While it is set, a promotion signs what becomes champion. PIKAVAE_TRUSTED_KEYS names the public "
        "keys that count.",
        options=options.SignOptions,
        examples=("sign --make-key ~/.pikavae-key", 'sign --reason "promoted before we had a key"'),
        tells=True,
    ),
    "rules": Command(
        promotion.show_rules,
        "Show who may approve, and how long a request waits.",
        about="No flag and no preset of a requester changes these rules; they are events of the ledger.",
        examples=("rules", "rules --json"),
    ),
    "rules set": Command(
        promotion.set_rules,
        "Set who may approve, and how long a request waits.",
        about="All rules at once: what the line does not name is off. Only approvers may change rules that name some.",
        options=options.RulesOptions,
        examples=(
            'rules set --two-people --request-days 14 --reason "as agreed"',
            'rules set --approver zoe@box --request-days 7 --reason "as agreed"',
        ),
        tells=True,
    ),
    "models list": Command(
        models.list_models,
        "List the candidates, the newest first.",
        settings=("registry.model_name",),
        examples=("models list", "models list --json"),
    ),
    "models show": Command(
        models.show_model,
        "Show a version's scores, gates and approval.",
        positionals=(MODEL,),
        settings=NAMED,
        examples=("models show 3", "models show champion --json"),
    ),
    "models lineage": Command(
        models.lineage,
        "Show how a version came to be, and what is gone.",
        about="From the source of its pictures to its alias.",
        positionals=(MODEL,),
        settings=NAMED,
        examples=("models lineage 3", "models lineage champion"),
    ),
    "models history": Command(
        models.history,
        "Show what was asked for, approved and moved, and why.",
        examples=("models history", "models history --json"),
    ),
    "models verify": Command(
        models.verify,
        "Check that ledger, bytes, versions and aliases agree.",
        options=options.VerifyOptions,
        examples=("models verify", "models verify --all"),
        tells=True,
    ),
    "models repair": Command(
        models.repair,
        "Put back what a crash or a hand in MLflow changed.",
        options=options.RepairOptions,
        examples=("models repair", "models repair --all"),
        tells=True,
    ),
}
