"""Declare the short form of a run: a preset, the pictures, a name and minutes; every other setting is under `advanced`.

A form that shows a whole configuration fills in all of its fields, so a preset behind it would change nothing. The
fields of `advanced` have no values of their own: what is not filled in is as the preset says. An untouched switch would
be sent as turned off, so a list of words stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from prefect.runtime import flow_run
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)

from pikavae.config import FOLLOWING, Config
from pikavae.errors import UserError
from pikavae.operations import Labels, run_name
from pikavae.presets import did_you_mean, load_config, parse_config, preset_names


class _Choices:
    """Lists the presets in a form's schema, as they are when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": preset_names()}


def _check_preset(name: str) -> str:
    if name not in preset_names():
        hint = did_you_mean(name, preset_names()) or f"presets are {', '.join(preset_names())}"
        raise ValueError(f"no such preset; {hint}")
    return name


Preset = Annotated[str, AfterValidator(_check_preset), _Choices()]
"""The name of a preset, chosen from a list."""
Text = Annotated[str, Field(max_length=4096)]
Minutes = Annotated[float, Field(ge=0)]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def _without_switches(kind: Any) -> Any:
    """Return a type in which words stand for a switch: a form sends an untouched switch as turned off."""
    kinds = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    if bool not in kinds:
        return kind
    words = [word for part in kinds if get_origin(part) is Literal for word in get_args(part)]
    others = [part for part in kinds if part is not bool and get_origin(part) is not Literal]
    return Union[(Literal[("true", "false", *words)], bool, *others)]


def _without_values(section: type[BaseModel]) -> type[BaseModel]:
    """Return a model with the fields of a section, none of which has a value before it is given one."""
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if name in FOLLOWING:
            continue
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _without_values(kind)
        kind = _without_switches(kind)
        annotated = Annotated[(kind, *info.metadata)] if info.metadata else kind
        fields[name] = (annotated, Field(None, description=info.description, json_schema_extra=_without_default))
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return create_model(f"Advanced{section.__name__}", __config__=config, __doc__=section.__doc__, **fields)


if TYPE_CHECKING:
    _Settings = BaseModel
else:
    _Settings = _without_values(Config)


class Advanced(_Settings):
    """Every setting of a configuration; what is not given is as the preset says."""

    def given(self) -> dict[str, Any]:
        """Return the settings that were given, by their dotted names."""
        sections: Mapping[str, Any] = self.model_dump(mode="json", exclude_unset=True)
        return {
            f"{section}.{name}": value for section, part in sections.items() for name, value in (part or {}).items()
        }


def form_config(
    *,
    preset: str,
    source: str = "",
    minutes: float = 0.0,
    advanced: Advanced | None = None,
    config: Config | None = None,
) -> Config:
    """Return the configuration that a form asks for.

    Args:
        preset: the name of the preset to begin with.
        source: `data.source`; empty for the preset's.
        minutes: `training.minutes`; 0 for the preset's.
        advanced: other settings.
        config: a whole configuration to begin with instead of the preset, as schedules hold one.

    Raises:
        UserError: there is no such preset, or a setting is not valid.
    """
    short = {"data.source": source.strip(), "training.minutes": minutes}
    settings = {
        **{dotted: value for dotted, value in short.items() if value},
        **(advanced.given() if advanced else {}),
    }
    if config is None:
        return load_config(preset, settings)
    return parse_config(config.model_dump(mode="json"), where="config", overrides=settings) if settings else config


def form_labels(*, preset: str, name: str = "", labels: Labels | None = None, config: Config | None = None) -> Labels:
    """Return what the run of a form is called.

    Args:
        preset: the preset that it begins with.
        name: the run's name; empty for that of `labels`.
        labels: the other labels.
        config: the configuration that it begins with instead of the preset.

    Raises:
        UserError: MLflow or Prefect takes no such name.
    """
    given = {} if labels is None else labels.model_dump()
    if config is None:
        given["preset"] = preset
    if name.strip():
        given["name"] = name.strip()
    try:
        return Labels.model_validate(given)
    except ValidationError as error:
        raise UserError(f"name {name!r}: {error.errors()[0]['ctx']['error']}") from None


DEFAULT = "demo"
"""The preset of a form that names none."""
OF_CONFIG = ("preset", "source", "minutes", "advanced", "config")
OF_LABELS = ("preset", "name", "labels", "config")
"""The parameters of a flow that `form_config` and `form_labels` take."""


def name_flow_run() -> str:
    """Return the name of the present flow run, from its parameters; a flow calls it when it begins."""
    given = flow_run.parameters
    try:
        config = form_config(**{field: given[field] for field in OF_CONFIG if field in given})
        labels = form_labels(**{field: given[field] for field in OF_LABELS if field in given})
    except UserError:  # the flow itself reports it
        return "settings that are not valid"
    return run_name(config, labels)


def name_polling() -> str:
    """Return a name for the poll at work: what it looks at."""
    given = flow_run.parameters
    try:
        config = form_config(**{field: given[field] for field in OF_CONFIG if field in given})
    except UserError:  # the flow itself reports it
        return "settings that are not valid"
    return f"poll {config.data.source}"
