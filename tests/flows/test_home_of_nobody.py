"""`~name` of a user that is not there is refused in one line, wherever a path may be given."""

import pytest

from flows.cli import main
from pikavae.errors import UserError
from pikavae.features.published import LPIPS_FIELD, OF_EVALUATION

NOBODY = "~nobody_of_this_name/x"


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "--data.source", NOBODY],
        ["prepare", "--data.validation_source", NOBODY],
        ["prepare", "--data.links_into", NOBODY, "--data.source", "."],
        ["prepare", "--data.tokenizer", NOBODY],
        ["plan", "--training.start", NOBODY],
        ["schedule", "--cron", "0 3 * * 1", "--evaluation.lpips_weights", NOBODY],
        ["plan", NOBODY],
        ["evaluate", NOBODY],
        ["register", NOBODY],
        ["import", NOBODY],
        ["export", "1", NOBODY],
        ["reconstruct", "{model}", NOBODY],
        ["reconstruct", "{model}", "a.png", "--out", NOBODY],
        ["interpolate", "{model}", "a.png", "b.png", "--out", NOBODY],
        ["sample", "{model}", "--out", NOBODY],
        ["encode", "{model}", "--out", NOBODY],
        ["promote", NOBODY, "--reason", "x"],
        ["schedule", "--cron", "0 3 * * 1", "--data.source", NOBODY],
    ],
)
def test_a_path_below_the_folder_of_nobody_is_refused(words, tmp_path, capsys):
    assert main([word.format(model=tmp_path) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert NOBODY in captured.err


@pytest.mark.parametrize(
    ("variable", "words"), [("PIKAVAE_HOME", ["models", "list"]), ("PREFECT_HOME", ["schedule", "list"])]
)
def test_a_variable_that_names_the_folder_of_nobody_is_named(variable, words, monkeypatch, capsys):
    monkeypatch.setenv(variable, NOBODY)
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"pikavae: {variable} '{NOBODY}': there is no user of this name; write the whole path\n"
    )


def test_a_file_of_weights_names_its_field():
    with pytest.raises(UserError, match=rf"^{LPIPS_FIELD} '{NOBODY}': there is no user of this name"):
        OF_EVALUATION[LPIPS_FIELD].find(NOBODY, LPIPS_FIELD)


def test_relocate_names_the_flag(monkeypatch, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").touch()
    assert main(["store", "relocate", "--from", NOBODY]) == 2
    assert f"--from '{NOBODY}': there is no user of this name" in capsys.readouterr().err
