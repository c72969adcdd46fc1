"""List the commands of the terminal: the parser, the help and the guide's list of commands follow from this table."""

from __future__ import annotations

from dataclasses import dataclass

from flows import options
from flows.command import ALL, ONE_PRESET, PRESET, Command, Positional
from flows.commands import models, notify, promotion, stages, sweep, upkeep, use
from flows.schedule_catalog import SCHEDULE_COMMANDS
from pikavae.production.watches import SETTINGS as WATCHED

MODEL_FORMS = (
    "a version number, champion, previous, run:<id>[@step or @best], a folder or file of weights, or hub:ORG/NAME"
)
MODEL = Positional("MODEL", MODEL_FORMS, f"name a model: {MODEL_FORMS}")
PICTURES = "PICTURE|FOLDER..."
PICTURES_HELP = "picture files of any size, or folders of them"
TWO_PICTURES = "name two picture files of one size after the model"
MODEL_AND_TARGET = "name a model and a new folder or file, `pikavae export MODEL DIR` or FILE.safetensors"

COMPUTE = ("training.device", "training.threads")
NAMED = ("registry.model_name", "model.norm_groups")
"""What finds a model: the registered model of the versions, and what a file of weights does not state."""
SIZES = (
    "model.like",
    "model.kind",
    "model.channels",
    "model.num_res_blocks",
    "model.latent_channels",
    "model.norm_groups",
    "model.mid_attention",
    "model.quant_conv",
    "model.latent_norm",
    "model.decoder_channels",
)
"""The sizes that weights of other makers must have."""
MEASURED = ("data", "evaluation", "model.channels", *COMPUTE, *NAMED)
"""What pictures a model is measured on, and how; a picture's size must fit the model's levels."""
IMPORTED = ("registry", "tracking", "data.image_size", *SIZES)
"""Where an imported model goes, and what a file of weights does not state."""

COMMANDS: dict[str, Command] = {
    "run": Command(
        stages.run,
        "Prepare, train, evaluate and register, as a Prefect flow.",
        about="The same command resumes a run that was stopped, and finds finished work again.",
        positionals=(PRESET,),
        options=options.RunOptions,
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=("run demo", "run scratch-small --data.source path/to/pictures"),
        tells=True,
    ),
    "plan": Command(
        stages.plan,
        "Show what `run` would do, and which input changed.",
        about="done: the result is used again; resumes: the training continues; extends: it continues a shorter one; "
        "runs: the stage runs.",
        positionals=(PRESET,),
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=("plan demo", "plan demo --training.steps 2400"),
    ),
    "prepare": Command(
        stages.prepare,
        "Decode, scale, check and split the pictures.",
        about="Settings of the later stages are accepted, so that `run` takes the same line; they have no effect here.",
        positionals=(PRESET,),
        settings=("data", "model.channels"),
        accepts=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=("prepare scratch-small --data.source path/to/pictures", "prepare demo --data.image-size 32"),
    ),
    "train": Command(
        stages.train,
        "Prepare the pictures and train.",
        about="The settings are kept with the model; `evaluate`, `register` and `promote` begin with them.",
        positionals=(PRESET,),
        options=options.RunOptions,
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=("train demo --training.steps 2400", "train finetune --data.source path/to/pictures --fresh"),
        tells=True,
    ),
    "sweep": Command(
        sweep.sweep,
        "Train and measure many settings, and rank them.",
        about="A setting with several values is swept. Lists are tried in every combination if --trials suffices, and "
        "otherwise values are drawn by Optuna. Nothing is registered. The same command resumes.",
        positionals=(PRESET,),
        options=options.SweepOptions,
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=(
            "sweep demo --optimizer.learning-rate 0.002 0.005 0.01",
            "sweep demo --space space.yaml --trials 20 --metric ssim",
        ),
        tells=True,
        sweeps=True,
    ),
    "evaluate": Command(
        stages.evaluate,
        "Measure a model on a frozen set of pictures.",
        about="By default on the held-out pictures of its own run. The table shows baselines and the champion too.",
        positionals=(MODEL,),
        options=options.EvaluateOptions,
        settings=MEASURED,
        base="model",
        extra="this command takes no such word; pictures are named by --data.source",
        examples=("evaluate 3 --against champion", "evaluate path/to/vae --data.source path/to/pictures"),
    ),
    "watch": Command(
        stages.watch,
        "Measure the champion on fresh pictures, and look for drift.",
        about="By default on what is new in the champion's own source. Scores are compared with the champion's report "
        "by 95 % intervals; pictures that it was trained on are left out. A page shows all of it.",
        options=options.WatchOptions,
        settings=WATCHED,
        base="champion",
        extra="this command takes no such word; pictures are named by --data.source",
        examples=("watch --data.source path/to/new/pictures", "watch --data.source 'new/*.parquet' --tolerance 0.5"),
        tells=True,
    ),
    "register": Command(
        stages.register,
        "Register a snapshot or other weights as a candidate.",
        about="Weights of other makers are imported and measured.",
        positionals=(
            Positional(
                "MODEL", "run:<id>[@step or @best], a folder or file of weights, or hub:ORG/NAME", MODEL.missing
            ),
        ),
        settings=(*MEASURED, *IMPORTED),
        base="model",
        examples=("register run:RUN_ID@800", "register path/to/vae --data.source path/to/pictures"),
        tells=True,
    ),
    "reconstruct": Command(
        use.reconstruct,
        "Encode and decode pictures.",
        positionals=(
            MODEL,
            Positional(PICTURES, PICTURES_HELP, "name at least one picture file or folder after the model"),
        ),
        options=options.ReconstructOptions,
        settings=("training.device", *NAMED),
        base="model",
        examples=("reconstruct champion picture.png --out reconstructions", "reconstruct 3 path/to/pictures --out out"),
    ),
    "interpolate": Command(
        use.interpolate,
        "Decode latents between those of two pictures.",
        about="The frames are on the straight line between the two latents, and both ends are reconstructions. What is "
        "between shows how smooth the decoder is, and is no picture of the data.",
        positionals=(
            MODEL,
            *[Positional("PICTURE", "a picture file; both are of one size", TWO_PICTURES)] * 2,
        ),
        options=options.InterpolateOptions,
        settings=("training.device", *NAMED),
        base="model",
        extra="interpolate takes one model and two picture files",
        examples=("interpolate champion a.png b.png --out between", "interpolate 3 a.png b.png --frames 30 --out out"),
    ),
    "sample": Command(
        use.sample,
        "Decode noise, or draws from the posteriors of pictures.",
        about="An autoencoder makes no new pictures: that needs a diffusion model trained on its latents. Without "
        "pictures, it decodes noise of the latents' mean and deviation, which a diffusion model begins with. With "
        "pictures, it decodes draws from their posteriors, which training sees.",
        positionals=(MODEL, Positional(f"[{PICTURES}]", PICTURES_HELP)),
        options=options.SampleOptions,
        settings=("training.device", *NAMED),
        base="model",
        examples=("sample champion picture.png --out samples", "sample champion --count 8 --seed 1 --out noise"),
    ),
    "encode": Command(
        stages.encode,
        "Store the latents of pictures for a diffusion trainer.",
        about="Parquet files that `datasets` loads, of both sides of the set, with captions and the scaling factor. By "
        "default of the pictures that the model was trained on.",
        positionals=(MODEL,),
        options=options.EncodeOptions,
        settings=("data", "evaluation.batch_size", "model.channels", *COMPUTE, *NAMED),
        base="model",
        examples=("encode champion --out latents", "encode 3 --data.source path/to/pictures --logvar"),
    ),
    "import": Command(
        use.import_,
        "Register published weights as a version.",
        about="Folders and files of diffusers, LDM or the tutorial, or the hub. No code in a file is run.",
        positionals=(
            Positional(
                "PATH",
                "a folder or file of weights, or hub:ORG/NAME",
                "name one folder or file of weights, or hub:ORG/NAME",
            ),
        ),
        settings=IMPORTED,
        examples=("import vae.ckpt", "import hub:stabilityai/sd-vae-ft-mse"),
    ),
    "export": Command(
        use.export,
        "Write a model as a folder or a file for other programs.",
        about="A folder is what diffusers loads; a file has LDM's names, as ComfyUI and A1111 read it.",
        positionals=(
            Positional(
                "MODEL",
                MODEL_FORMS,
                MODEL_AND_TARGET,
            ),
            Positional(
                "DIR|FILE.safetensors",
                "a new folder, or a new file",
                MODEL_AND_TARGET,
            ),
        ),
        settings=("registry.model_name", "evaluation.batch_size", *SIZES, *COMPUTE),
        extra="export takes one model and one new folder or file",
        examples=("export champion path/to/new/folder", "export champion vae.safetensors"),
    ),
    "half-safe": Command(
        use.half_safe,
        "Write a copy of a model that stays finite in fp16.",
        about="Layers that come near fp16's largest number on the pictures are rescaled by powers of two, and the next "
        "layers take it back: the reconstructions stay the same to the error that is printed. Nothing is written if no "
        "layer is too large, or if rescaling does not help.",
        positionals=(
            MODEL,
            Positional(PICTURES, PICTURES_HELP, "name at least one picture file or folder after the model"),
        ),
        options=options.HalfSafeOptions,
        settings=(*COMPUTE, *NAMED),
        base="model",
        examples=(
            "half-safe champion path/to/pictures --out vae-fp16",
            "half-safe path/to/vae picture.png --out vae-fp16",
        ),
    ),
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
    "prune": Command(
        upkeep.prune,
        "Free disk space.",
        about="Each run keeps its best and last snapshots and those that something refers to.",
        options=options.PruneOptions,
        examples=("prune --dry-run", "prune --keep 1"),
    ),
    "housekeeping": Command(
        upkeep.housekeeping,
        "Close cut-off runs, prune, verify, back up, delete old logs.",
        about="`up` does this when it starts, and the deployment `housekeeping` does it in Prefect. The state folder's "
        "housekeeping.json says what was done.",
        options=options.HousekeepingOptions,
        examples=("housekeeping", "housekeeping --keep-backups 30"),
    ),
    "store relocate": Command(
        upkeep.relocate,
        "Correct MLflow's addresses after a move of the folder.",
        about="MLflow's database holds absolute addresses. Every other command refuses a state folder that was moved.",
        options=options.RelocateOptions,
        examples=("store relocate --dry-run", "store relocate --from /old/place/mlruns"),
    ),
    "up": Command(
        upkeep.up,
        "Run MLflow, Prefect and a worker until Ctrl-C.",
        about="The worker runs what is scheduled or asked for in Prefect's forms. A line here says how each "
        "run began and ended. Only this machine reaches the servers, unless --host opens them.",
        options=options.UpOptions,
        settings=("tracking",),
        examples=("up", "up --host 0.0.0.0 --prefect-port 4201"),
    ),
    **SCHEDULE_COMMANDS,
    "ui": Command(
        upkeep.ui,
        "Serve MLflow's pages until Ctrl-C.",
        about="If `up` or another `ui` serves them already, it shows the address and ends.",
        options=options.UiOptions,
        settings=("tracking",),
        examples=("ui", "ui --run RUN_ID"),
    ),
    "notify": Command(
        notify.notify,
        "Show what notifications are pending, or send a test.",
        about="Addresses are in `notify.yaml` of the state folder, or in the variable PIKAVAE_NOTIFY_URLS.",
        options=options.NotifyOptions,
        examples=("notify --test", "notify --send"),
    ),
    "doctor": Command(
        upkeep.doctor,
        "Report what is here, what is missing, and how to get it.",
        examples=("doctor", "doctor --json"),
    ),
}


@dataclass(frozen=True)
class Group:
    """Describes a word that several commands begin with and that is no command itself.

    Attributes:
        summary: what its commands are for.
        default: the command that it means alone; empty if it means none.
    """

    summary: str
    default: str = ""


GROUPS = {
    "models": Group("Show, verify or repair the registry.", default="list"),
    "store": Group("Maintain the state folder."),
}
