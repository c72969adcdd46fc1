"""List the commands of a run and its stages."""

from __future__ import annotations

from flows.catalog.shared import IMPORTED, MEASURED, MODEL
from flows.commands import stages, sweep
from flows.terminal import options
from flows.terminal.command import ALL, ONE_PRESET, PRESET, Command, Positional
from pikavae.production.judgements.watches import SETTINGS as WATCHED

STAGE_COMMANDS: dict[str, Command] = {
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
}
