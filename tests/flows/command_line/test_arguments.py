"""How a command line is read: flags, their values, words that stand alone, and what is said of a mistake."""

import json
import os
import re
import subprocess
import sys

import pytest

from flows.catalog import COMMANDS
from flows.cli import main
from flows.command_line.arguments import find_command, parse_options, read_arguments
from flows.command_line.flags import flags_of, read_words
from flows.terminal.options import EncodeOptions, EvaluateOptions
from flows.terminal.output import show
from pikavae.errors import UserError
from tests.support.places import ROOT


def read(*words):
    return read_arguments("run", list(words))


def split(name, *words):
    command = COMMANDS[name]
    return read_words(words, flags_of(command), str, needed=command.num_needed)


def field(config, dotted):
    section, _, name = dotted.partition(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(
    "name", ["data.flip", "training.compile", "model.resample_shortcuts", "model.resample-shortcuts"]
)
@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--{}"], True),
        (["--{}", "true"], True),
        (["--{}", "True"], True),
        (["--{}", "yes"], True),
        (["--{}", "1"], True),
        (["--{}=true"], True),
        (["--{}=on"], True),
        (["--{}", "false"], False),
        (["--{}", "no"], False),
        (["--{}", "0"], False),
        (["--{}=false"], False),
        (["--no-{}"], False),
        (["--{}", "--json"], True),
        (["--{}=false", "--{}"], True),
    ],
)
def test_a_switch_takes_every_form_of_yes_and_no(name, words, value):
    given = read("demo", *(word.format(name) for word in words))
    assert field(given.config, name.replace("-", "_")) is value
    assert given.options.json is ("--json" in words)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--data.source=a=b"], "data.source", "a=b"),
        (["--data.source", "*.parquet"], "data.source", "*.parquet"),
        (["--data.source=--odd"], "data.source", "--odd"),
        (["--promotion.min_gain", "-0.5"], "promotion.min_gain", -0.5),
        (["--data.image-size", "32"], "data.image_size", 32),
        (["--model.channels", "8", "16"], "model.channels", (8, 16)),
        (["--model.channels=8,16"], "model.channels", (8, 16)),
        (["--model.channels", "[8, 16]"], "model.channels", (8, 16)),
        (["--data.background", "1", "2", "3"], "data.background", (1, 2, 3)),
        (["--evaluation.sizes"], "evaluation.sizes", ()),
        (["--evaluation.sizes", "none"], "evaluation.sizes", None),
        (["--training.epochs", "None"], "training.epochs", None),
        (["--training.compile", "auto"], "training.compile", "auto"),
        (["--training.compile=auto"], "training.compile", "auto"),
        (["--training.log_every", "2 epochs"], "training.log_every", "2 epochs"),
        (["--promotion.half_precision", "bf16"], "promotion.half_precision", ("bf16",)),
        (["--training.steps", "3", "--training.steps", "4"], "training.steps", 4),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_value_is_read_wherever_the_preset_stands(words, name, value, place):
    given = ["demo", "--model.norm_groups", "4", *words] if place == "first" else ["--model.norm_groups", "4", *words]
    if place == "last" and not (name == "evaluation.sizes" and value == ()):
        given.append("demo")
    assert field(read(*given).config, name) == value


def test_a_family_replaces_the_sizes_of_a_preset_and_a_size_beside_it_counts():
    model = read("demo", "--model.like", "flux1", "--model.num-res-blocks", "1").config.model
    assert (model.channels, model.num_res_blocks) == ((128, 256, 512, 512), 1)
    assert (model.latent_channels, model.quant_conv) == (16, False)
    assert model.resample_shortcuts == read("demo").config.model.resample_shortcuts


@pytest.mark.parametrize(
    ("words", "swept", "fixed"),
    [
        (["demo", "--loss.kl-weight", "1e-8", "1e-6"], {"loss.kl_weight": ["1e-8", "1e-6"]}, {}),
        (["--loss.kl-weight", "1e-8", "1e-6", "demo"], {"loss.kl_weight": ["1e-8", "1e-6"]}, {}),
        (["demo", "--training.steps", "7", "--loss.kl-weight=1"], {}, {"training.steps": "7", "loss.kl_weight": "1"}),
        (["--optimizer.name", "adamw", "muon", "demo"], {"optimizer.name": ["adamw", "muon"]}, {}),
        (["demo", "--data.flip", "true", "no"], {"data.flip": ["true", "no"]}, {}),
        (["--data.flip", "demo"], {}, {"data.flip": "true"}),
        (["demo", "--no-data.flip"], {}, {"data.flip": "false"}),
        (["demo", "--model.channels", "16", "32"], {}, {"model.channels": ["16", "32"]}),
        (["--model.channels", "16,32", "8,8", "demo"], {"model.channels": [["16", "32"], ["8", "8"]]}, {}),
        (["demo", "--optimizer.betas", "0.5,0.9", "0,1"], {"optimizer.betas": [["0.5", "0.9"], ["0", "1"]]}, {}),
        (["demo", "--optimizer.max-grad-norm", "none", "2"], {"optimizer.max_grad_norm": [None, "2"]}, {}),
        (["demo", "--data.exclude", "a", "b"], {}, {"data.exclude": ["a", "b"]}),
        (["demo", "--evaluation.sizes"], {}, {"evaluation.sizes": []}),
    ],
)
def test_a_sweep_takes_several_values_of_a_setting(words, swept, fixed):
    read = split("sweep", *words)
    assert read.names == ["demo"]
    values = {name: found for name, found in read.values.items() if "." in name}
    assert {name: found for name, found in values.items() if len(found) > 1} == swept
    assert {name: found[0] for name, found in values.items() if len(found) == 1} == fixed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("demo --loss.kl-weight", "--loss.kl-weight: its value is missing"),
        ("demo --optimizer.betas 0.5 0.9 0.5", "2 values are expected, not 3"),
        ("demo --optimizer.learning-rate 0.1 fast", "'fast'"),
        ("demo --training.device cpu cuda", "it sets where or how a training works"),
        ("demo --training.steps 7", "no field has several values"),
        ("demo --training.steps 7 8 --trials 0", "--trials 0: give 1 or more"),
        ("demo --training.steps 7 8 --minutes 0", "--minutes 0"),
        ("demo --training.steps 7 8 --name a/b", "--name 'a/b'"),
        ("demo --training.steps 7 8 --metric psn", "did you mean psnr"),
        ("nothing --training.steps 7 8", "no such preset"),
    ],
)
def test_a_mistake_in_a_sweep_is_told_in_one_line_before_anything_is_done(words, complaint, capsys, tmp_path):
    assert main(["sweep", *words.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert "\n" not in said
    assert not (tmp_path / "home" / "sweeps").exists()


def test_own_options_of_a_command_are_read_like_settings():
    for words in (["--fresh"], ["--fresh", "1"], ["--fresh=yes"], ["--no-fresh", "--fresh"]):
        assert read("demo", *words).options.fresh is True
    line = split("evaluate", "--json", "1", "--beside", "2", "--beside=3", "--against=4")
    assert line.names == ["1"]
    given = parse_options(EvaluateOptions, line.values)
    assert (given.json, given.beside, given.against) == (True, ("2", "3"), "4")
    assert split("reconstruct", "3", "--", "--odd.png", "-x.png").names == ["3", "--odd.png", "-x.png"]


ODD = ["*.parquet", "@x", "{", "[a", "!tag", "a: b", "- x", "&a", "%", "\t", "'", "null: [", "x" * 500]


@pytest.mark.parametrize("value", ODD)
def test_a_misspelt_flag_is_named_whatever_its_value(value, capsys):
    for words in (["--data.sorce", value], [f"--data.sorce={value}"]):
        assert main(["plan", "demo", *words]) == 2
        assert capsys.readouterr().err == "pikavae: --data.sorce: no such flag; did you mean --data.source?\n"


@pytest.mark.parametrize("value", ODD)
def test_an_odd_value_of_a_number_is_told_in_one_line(value, capsys):
    assert main(["plan", "demo", "--training.steps", value]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pikavae: --training.steps {value!r}: input should be a valid integer")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data.flip", "maybe"], "--data.flip 'maybe': expected true or false"),
        (["demo", "--data.flip", "maybe"], "--data.flip 'maybe': expected true or false"),
        (["--data.flip=maybe"], "--data.flip 'maybe': input should be a valid boolean"),
        (["--no-data.flip=true"], "takes no value; write --data.flip=true"),
        (["--no-training.steps", "3"], "--no-training.steps: no such flag"),
        (["--training.steps"], "--training.steps: its value is missing"),
        (["--data.source", "--json"], "--data.source: its value is missing; one that begins with -- is written"),
        (["--data.source="], "--data.source '': string should have at least 1 character"),
        (["--training.device", "gpu"], "--training.device 'gpu': input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--training.log_every", "soon"], "--training.log-every 'soon': expected a number of steps from 1, or"),
        (["demo", "--training.log_every", "2", "epochs"], "one value is expected, and 'epochs' is another; put quotes"),
        (["--data.source", "a.parquet", "b.parquet"], "one value is expected, and 'b.parquet' is another; put quotes"),
        (["--data.background", "1", "2"], "--data.background 1 2: 3 values are expected, not 2"),
        (["demo", "--data.background", "1", "2", "3", "4"], "--data.background '4': expected a number, and 3 values"),
        (["demo", "--model.channels", "8", "x"], "--model.channels.1 'x': input should be a valid integer"),
        (["demo", "--promotion.half_precision", "fp8"], "--promotion.half-precision.0 'fp8': input should be"),
        (["-training.steps", "3"], "-training.steps: no such flag; did you mean --training.steps?"),
        (["-n"], "-n: no such flag; flags begin with two hyphens"),
        (["\N{EM DASH}json"], "no such flag; did you mean --json?"),
        (["--steps", "3"], "--steps: no such flag; did you mean --training.steps?"),
        (["--training.gradient-checkpointing"], "no such flag any more; use --training.activations checkpoint"),
        (["demo", "demo-f8"], "'demo-f8': one preset at a time"),
        (["--json", "demo", "demo-f8"], "'demo-f8': one preset at a time"),
        (["--training.steps", "3", "demo", "more"], "'more': one preset at a time"),
        (["--training.steps", "3", "dmeo"], "--training.steps: one value is expected, and 'dmeo' is another"),
        ([""], "preset '': no such preset"),
    ],
)
def test_a_mistake_names_flag_value_and_remedy_in_one_line(words, complaint, capsys):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not re.search("[╭│╰]", error)


def test_an_empty_value_of_an_own_option_is_refused():
    with pytest.raises(UserError, match="--out: it is empty"):
        parse_options(EncodeOptions, split("encode", "1", "--out=").values)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["models"], "models list", []),
        (["models", "--json"], "models list", ["--json"]),
        (["models", "--json", "show", "1"], "models show", ["--json", "1"]),
        (["models", "show", "--json", "1"], "models show", ["--json", "1"]),
        (["models", "--registry.model-name", "show", "list"], "models list", ["--registry.model-name", "show"]),
        (["schedule", "demo", "--cron", "list"], "schedule", ["demo", "--cron", "list"]),
        (["schedule", "--cron", "x", "--name", "list"], "schedule", ["--cron", "x", "--name", "list"]),
        (["schedule", "--json", "remove", "1"], "schedule remove", ["--json", "1"]),
        (["store", "--dry-run", "relocate"], "store relocate", ["--dry-run"]),
        (["run", "list"], "run", ["list"]),
    ],
)
def test_a_command_of_two_words_is_found_wherever_its_flags_are(words, name, rest):
    assert find_command(words) == (name, rest)


def test_json_may_come_before_the_command(capsys):
    assert main(["--json", "models", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == {"versions": []}
    assert main(["--json=false", "models", "list"]) == 2
    assert "the command comes first" in capsys.readouterr().err


def pikavae(*words, **variables):
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, check=False)


def test_a_terminal_of_ascii_gets_its_results_with_replacements(tmp_path):
    folder = tmp_path / "B\N{LATIN SMALL LETTER U WITH DIAERESIS}cher \N{SNOWMAN}"
    folder.mkdir()
    ascii_alone = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = pikavae("plan", "demo", "--data.source", str(folder), **ascii_alone)
    said = f"pikavae: data.source '{tmp_path}/B?cher ?': the folder holds no pictures and no "
    assert (done.returncode, done.stderr[: len(said)].decode("ascii")) == (2, said)
    assert done.stderr.count(b"\n") == 1


def test_what_standard_output_cannot_show_is_replaced_and_a_closed_pipe_is_no_mistake(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="ascii") as closed:
        show("a", closed)
        show("b", closed)
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["--version"]) == 0
        show("\N{SNOWMAN}", sys.stdout)
    assert (tmp_path / "out").read_text().endswith("\n?\n")
    show("nowhere", None)
