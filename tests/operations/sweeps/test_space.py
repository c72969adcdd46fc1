"""What a sweep tries: read from lists and from a file, and refused with the field, the value and the remedy."""

import pytest

from pikavae.errors import UserError
from pikavae.operations.sweeps.space import make_space


@pytest.fixture
def read(tmp_path):
    def of(text, swept=None, fixed=None):
        file = tmp_path / "space.yaml"
        file.write_text(text)
        return make_space(swept or {}, str(file), fixed or {})

    return of


def test_a_file_has_lists_and_ranges_and_every_value_gets_its_fields_type(read):
    space = read(
        """
optimizer:
  learning_rate: {log_range: [1e-4, 1.0e-2]}
  max_grad_norm: [none_is_null, 2]
loss:
  equivariance: {range: [0, 0.5], step: 0.1}
model:
  num_res_blocks: {integers: [1, 3]}
  channels: {choices: [[16, 32], [16, 64]]}
training:
  batch_size: {log_range: [2, 64]}
data:
  flip: [yes, no]
""".replace("none_is_null", "null")
    )
    assert space.content() == {
        "optimizer.learning_rate": {"log_range": [1e-4, 1e-2]},
        "optimizer.max_grad_norm": {"choices": [None, 2.0]},
        "loss.equivariance": {"range": [0.0, 0.5], "step": 0.1},
        "model.num_res_blocks": {"integers": [1, 3]},
        "model.channels": {"choices": [[16, 32], [16, 64]]},
        "training.batch_size": {"log_range": [2, 64]},
        "data.flip": {"choices": [True, False]},
    }
    assert space.num_combinations is None
    assert space.dimensions["training.batch_size"].is_whole


def test_lists_have_every_combination_and_the_last_field_changes_first():
    space = make_space({"optimizer.learning_rate": ["1e-3", "0.01"], "optimizer.name": ["adamw", "muon"]}, None, {})
    assert space.num_combinations == 4
    assert [tuple(one.values()) for one in space.combinations()] == [
        (0.001, "adamw"),
        (0.001, "muon"),
        (0.01, "adamw"),
        (0.01, "muon"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("- 1", "expected sections"),
        ("optimizer: [1, 2]", "optimizer: expected fields below this section"),
        ("optimizer: {learning_rate: [1, 2", "not a YAML file"),
        ("optimizer: {learning_rat: [1, 2]}", "no such field; did you mean optimizer.learning_rate"),
        ("optimizer: {learning_rate: []}", "the list is empty; a sweep needs two or more"),
        ("optimizer: {learning_rate: [1]}", "one value only, 1"),
        ("optimizer: {learning_rate: [0.1, 1e-1]}", "'1e-1': this value is there twice"),
        ("optimizer: {learning_rate: [1, -2]}", "learning_rate -2: input should be greater than 0"),
        ("optimizer: {learning_rate: [1, .inf]}", "finite"),
        ("optimizer: {learning_rate: 3}", "expected a list of values, or one of choices, range"),
        ("optimizer: {learning_rate: {logrange: [1, 2]}}", "logrange: did you mean log_range?"),
        ("optimizer: {learning_rate: {range: [1, 2], integers: [1, 2]}}", "found range and integers"),
        ("optimizer: {learning_rate: {range: [2, 1]}}", "the first end must be less than the second"),
        ("optimizer: {learning_rate: {range: [1, 2, 3]}}", "expected the two ends"),
        ("loss: {kl_weight: {log_range: [0, 1]}}", "both ends must be greater than 0"),
        ("loss: {kl_weight: {log_range: [1, 2], step: 1}}", "log_range has none"),
        ("loss: {kl_weight: {range: [0, 1], step: 0.3}}", "step 0.3: it must be positive and divide the range"),
        ("loss: {kl_weight: {choices: [0, 1], step: 1}}", "choices have none"),
        ("optimizer: {name: {range: [1, 2]}}", "the field is no number"),
        ("model: {num_res_blocks: {range: [1, 2]}}", "use integers"),
        ("model: {channels: [16, 32]}", "model.channels 16: input should be a valid tuple"),
        ("model: {like: [sd1, sd3]}", "it stands for several sizes"),
        ("optimizer: {name: [adamw, muon]}\noptimizer: {name: [muon, adamw]}", "'optimizer' on line 2"),
        ("optimizer:\n  name: [adamw, muon]\n  name: [muon, adamw]", "'name' on line 3"),
        ("data: {source: [one, two]}", "section data decides the pictures"),
        ("data: {image_size: [32, 64]}", "section data decides the pictures"),
        ("training: {device: [cpu, cuda]}", "sets where or how a training works"),
        ("training: {log_every: [1, 2]}", "sets where or how a training works"),
        ("loss: {perceptual_weights: [one, two]}", "it names a file"),
        ("evaluation: {batch_size: [1, 2]}", "section evaluation decides no training"),
        ("promotion: {psnr_floor: [1, 2]}", "section promotion decides no training"),
    ],
)
def test_what_cannot_be_tried_is_refused(read, text, said):
    with pytest.raises(UserError) as refused:
        read(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "space.yaml" in str(refused.value) or "space file" in str(refused.value)


def test_a_field_is_named_once(read):
    text = "optimizer: {learning_rate: [1, 2]}"
    for words in ({"swept": {"optimizer.learning_rate": ["3", "4"]}}, {"fixed": {"optimizer.learning_rate": "3"}}):
        with pytest.raises(UserError, match=r"is set by --optimizer\.learning-rate too"):
            read(text, **words)


def test_there_must_be_something_to_try():
    with pytest.raises(UserError, match="no field has several values"):
        make_space({}, None, {"training.steps": "3"})
    with pytest.raises(UserError, match=r"--space gone.yaml: no such file"):
        make_space({}, "gone.yaml", {})
