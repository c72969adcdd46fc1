"""Defines what people call a run: its name, a note and tags. They are in no key and change no result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationError

from pikavae.config import Section
from pikavae.errors import UserError
from pikavae.tracker.tags import NOTE_TAG, OWN_NOTE_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME_LENGTH = 200
"""MLflow's databases keep 250 characters of a run's name."""
NOTE_LENGTH = 2000
"""A description in MLflow has 8,000 characters, of which pikavae's own part needs about half."""
KEY_LENGTH = 100
VALUE_LENGTH = 500
NUM_TAGS = 50
OURS = ("mlflow.", "pikavae.")
"""The beginnings of the tags that MLflow and pikavae write themselves."""
PICTURE = "!["
"""The beginning of a description that begins with a picture."""
KEY = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.: -]|/(?=[A-Za-z0-9_]))*")
"""Matches the names of tags that every store of MLflow takes."""


def _check_line(text: str, length: int, remedy: str) -> str:
    """Return a text of one line without the blanks around it."""
    text = text.strip()
    if not text:
        raise ValueError(f"it is empty; {remedy}")
    if not text.isprintable():
        raise ValueError("it has a line break or another character that is not shown; write one line of text")
    if len(text) > length:
        raise ValueError(f"it has {len(text):,} characters; at most {length:,} are kept")
    return text


def _check_name(text: str) -> str:
    return _check_line(text, NAME_LENGTH, "name the run, or leave the name out")


def _check_note(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("it has a character that is not shown; write plain text or Markdown")
    if len(text) > NOTE_LENGTH:
        raise ValueError(f"it has {len(text):,} characters; at most {NOTE_LENGTH:,} are kept")
    return text


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > NUM_TAGS:
        raise ValueError(f"there are {len(tags)} tags; at most {NUM_TAGS} are kept")
    return {_check_key(key): _check_value(key, value) for key, value in tags.items()}


def _check_key(key: str) -> str:
    if key.lower().startswith(OURS):
        raise ValueError(f"{key!r}: tags that begin with {' or '.join(OURS)} are written by these programs alone")
    if not KEY.fullmatch(key) or key.endswith(" "):
        raise ValueError(f"{key!r}: letters, digits, `_`, `-`, `.`, `:`, single `/` and blanks inside are allowed")
    if len(key) > KEY_LENGTH:
        raise ValueError(f"{key[:20]}...: its name has {len(key)} characters; at most {KEY_LENGTH} are kept")
    return key


def _check_value(key: str, value: str) -> str:
    try:
        return _check_line(value, VALUE_LENGTH, "give it a value")
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None


class Labels(Section):
    """What people call a run. It is in no key and changes no result."""

    name: Annotated[str, AfterValidator(_check_name)] | None = None
    """The run's name in MLflow and Prefect; by default the preset, what differs from it, and the time."""
    note: Annotated[str, AfterValidator(_check_note)] | None = None
    """What to know about the run, in Markdown; it stands first on the run's page."""
    tags: Annotated[dict[str, str], AfterValidator(_check_tags)] = Field({})
    """The run's tags by name, to search for."""
    preset: str | None = None
    """The preset, or the file of settings, that the configuration began with; by default the most similar preset."""

    @property
    def words(self) -> list[str]:
        """Return the tags as `name=value`."""
        return [f"{key}={value}" for key, value in self.tags.items()]

    @property
    def is_given(self) -> bool:
        """Return True if there is a name, a note or a tag."""
        return bool(self.name or self.note is not None or self.tags)


def read_labels(
    preset: str | None, *, name: str | None = None, note: str | None = None, tags: Iterable[str] = ()
) -> Labels:
    """Return the labels that a command line gives.

    Args:
        preset: the preset or the file of settings.
        name: the run's name.
        note: the note.
        tags: the tags as `name=value`.

    Raises:
        UserError: MLflow or Prefect would not take one of them; the message names the flag and the value.
    """
    try:
        return Labels(preset=preset, name=name, note=note, tags=read_tags(tags))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag, value = str(first["loc"][0]).replace("tags", "tag"), first["input"]
        shown = f" {value[:40]!r}" if isinstance(value, str) else ""
        raise UserError(f"--{flag}{shown}: {first['ctx']['error']}") from None


def read_tags(words: Iterable[str]) -> dict[str, str]:
    """Return the tags that were written as `name=value`.

    Raises:
        UserError: a word has another form, or a name has two values.
    """
    tags: dict[str, str] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not key:
            raise UserError(f"--tag {word!r}: expected name=value, such as --tag data=emoji")
        if tags.setdefault(key, value) != value:
            raise UserError(f"--tag {word!r}: the tag {key!r} has the value {tags[key]!r} already; give one of them")
    return tags


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run or version that people gave it, by name."""
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(OURS)}


def describe(tags: Mapping[str, str], markdown: str) -> str:
    """Return a run's description: its picture, if there is one, a person's note, then the rest of pikavae's part."""
    picture, _, rest = markdown.partition("\n\n") if markdown.startswith(PICTURE) else ("", "", markdown)
    return "\n\n".join(part for part in (picture, tags.get(OWN_NOTE_TAG), rest) if part)


def own_part(tags: Mapping[str, str]) -> str:
    """Return pikavae's part of a run's description, without a person's note."""
    whole, note = tags.get(NOTE_TAG, ""), tags.get(OWN_NOTE_TAG)
    return f"\n\n{whole}\n\n".replace(f"\n\n{note}\n\n", "\n\n", 1).strip("\n") if note else whole


def label(client: MlflowClient, run_id: str, labels: Labels) -> list[str]:
    """Give a run the name, the note and the tags that are given, and return in words what is new.

    What is not given stays, as do other tags. An empty note removes the earlier one.
    """
    run = client.get_run(run_id)
    earlier, told = run.data.tags, []
    if labels.name and labels.name != run.info.run_name:
        client.update_run(run_id, name=labels.name)
        told.append(f"it is called {labels.name!r} now and was {run.info.run_name!r}")
    if labels.note is not None and labels.note != earlier.get(OWN_NOTE_TAG, ""):
        note = {OWN_NOTE_TAG: labels.note}
        client.set_tag(run_id, NOTE_TAG, describe(note, own_part(earlier)))
        client.set_tag(run_id, OWN_NOTE_TAG, labels.note)
        told.append("its note is replaced" if earlier.get(OWN_NOTE_TAG) else "it has a note now")
    for key, value in labels.tags.items():
        if earlier.get(key) != value:
            client.set_tag(run_id, key, value)
            was = f" and was {earlier[key]!r}" if key in earlier else ""
            told.append(f"its tag {key} is {value!r} now{was}")
    return told
