"""Labels: what MLflow and Prefect would refuse is refused before, in a line that names flag and value."""

import pytest

from pikavae.errors import UserError
from pikavae.tracker.labels import Labels, describe, label, own_part, read_labels
from pikavae.tracker.tags import OWN_NOTE_TAG
from tests.support.commands import client

NOTE = "mlflow.note.content"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "  "}, "--name '  ': it is empty"),
        ({"name": "a\nb"}, "--name 'a\\nb': it has a line break"),
        ({"name": "x" * 201}, "it has 201 characters; at most 200 are kept"),
        ({"note": "a\x00b"}, "--note 'a\\x00b': it has a character that is not shown"),
        ({"note": "x" * 2001}, "it has 2,001 characters; at most 2,000"),
        ({"tags": ["emoji"]}, "--tag 'emoji': expected name=value"),
        ({"tags": ["=emoji"]}, "--tag '=emoji': expected name=value"),
        ({"tags": ["a="]}, "--tag: 'a': it is empty; give it a value"),
        ({"tags": ["a=1", "a=2"]}, "--tag 'a=2': the tag 'a' has the value '1' already"),
        ({"tags": ["mlflow.user=me"]}, "--tag: 'mlflow.user': tags that begin with mlflow. or pikavae."),
        ({"tags": ["Pikavae.train_key=0"]}, "--tag: 'Pikavae.train_key': tags that begin with"),
        ({"tags": ["a\"b'=1"]}, "letters, digits, `_`"),
        ({"tags": ["../a=1"]}, "letters, digits, `_`"),
        ({"tags": ["a//b=1"]}, "letters, digits, `_`"),
        ({"tags": [f"{'k' * 101}=1"]}, "its name has 101 characters; at most 100"),
        ({"tags": [f"a={'v' * 501}"]}, "'a': it has 501 characters; at most 500"),
        ({"tags": [f"a{number}=1" for number in range(51)]}, "there are 51 tags; at most 50"),
    ],
)
def test_what_a_store_would_refuse_is_refused_in_one_line(given, complaint):
    with pytest.raises(UserError) as refused:
        read_labels("demo", **given)
    assert complaint in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_longest_labels_of_all_characters_are_kept_by_mlflow():
    words = [f"{'k' * 94}{number:02}/a.-: _b=ü'\"%{'v' * 490}" for number in range(50)]
    words = [word.replace("/a.-: _b", "", 1) if len(word.split("=")[0]) > 100 else word for word in words]
    labels = read_labels(None, name="ä'\"%·/" * 33, note="**n**\r\n" + "\N{SNOWMAN}" * 1990, tags=words)
    run = client().create_run(client().create_experiment("e"))
    label(client(), run.info.run_id, labels)
    found = client().get_run(run.info.run_id)
    assert found.info.run_name == labels.name
    assert found.data.tags[NOTE] == labels.note
    assert labels.tags.items() <= found.data.tags.items()
    query = " AND ".join(f'tags.`{key}` = "{value}"' for key, value in {"x y": "1"}.items())
    assert client().search_runs([run.info.experiment_id], query) == []


def test_labels_that_are_given_replace_and_others_stay():
    run_id = client().create_run(client().create_experiment("e"), run_name="first").info.run_id
    client().set_tag(run_id, NOTE, "pikavae's part\n\nof two paragraphs")
    assert label(client(), run_id, Labels(note="mine", tags={"a": "1", "b": "2"})) == [
        "it has a note now",
        "its tag a is '1' now",
        "its tag b is '2' now",
    ]
    assert label(client(), run_id, Labels(name="second", note="new", tags={"a": "3", "b": "2"})) == [
        "it is called 'second' now and was 'first'",
        "its note is replaced",
        "its tag a is '3' now and was '1'",
    ]
    run = client().get_run(run_id)
    assert run.data.tags[NOTE] == "new\n\npikavae's part\n\nof two paragraphs"
    assert own_part(run.data.tags) == "pikavae's part\n\nof two paragraphs"
    assert label(client(), run_id, Labels(name="second", note="new", tags={"a": "3"})) == []
    label(client(), run_id, Labels(note=""))
    assert client().get_run(run_id).data.tags[NOTE] == "pikavae's part\n\nof two paragraphs"


def test_a_note_stands_after_the_picture_and_is_taken_out_again():
    part = "![a](x)\n\nwords\n\n## Evaluation"
    for note in ("mine", "two\n\nparagraphs", ">", "words", "![a](x)"):
        described = describe({OWN_NOTE_TAG: note}, part)
        assert described == f"![a](x)\n\n{note}\n\nwords\n\n## Evaluation"
        assert own_part({OWN_NOTE_TAG: note, NOTE: described}) == part
    assert describe({}, part) == part == own_part({NOTE: part})
    assert own_part({OWN_NOTE_TAG: "mine", NOTE: "mine"}) == ""
