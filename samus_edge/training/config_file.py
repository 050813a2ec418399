"""Training configurations from YAML files and from `--set key=value`."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from samus_edge.training.config import SECTIONS, TrainConfig

Settings = TypeVar("Settings")


def read_config(path: Path | None, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML configuration; keys that are not there keep their default.

    Args:
        path: the file; None for the default configuration.
        changes: settings that replace the file's, each as "key=value" with the value in YAML, such
            as "epochs=20" or "prompts.refine_probability=0.5".

    Raises:
        ValueError: if the file is no YAML mapping, or naming every unknown key and bad value.
    """
    problems: list[str] = []
    document = {} if path is None else _mapping(_read_yaml(path), "", problems)
    for change in changes:
        _apply(change, document, problems)
    values = _known_values(document, TrainConfig, "", problems)
    for name, section in SECTIONS.items():
        given = _known_values(values.pop(name, None), section, f"{name}.", problems)
        built = _build(section, given, problems)
        if built is not None:
            values[name] = built
    config = _build(TrainConfig, values, problems)
    if config is None or problems:
        source = "--set" if path is None else f"{path} with --set" if changes else str(path)
        raise ValueError(f"{source}: {'; '.join(problems)}.")
    return config


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} is not a YAML file: {err}") from err


def _apply(change: str, document: dict[str, Any], problems: list[str]) -> None:
    """Put one "key=value" into a document, in place."""
    key, equals, text = change.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name:
        problems.append(f"{change!r} is not key=value, as in prompts.refine_probability=0.5")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"the value of {change!r} is not YAML")
        return
    target = document
    for depth, section in enumerate(sections, 1):
        inner = _mapping(target.get(section), ".".join(sections[:depth]), problems)
        target[section] = inner
        target = inner
    target[name] = value


def _mapping(document: object, name: str, problems: list[str]) -> dict[str, Any]:
    """A copy of what must be a mapping; anything else but None is a problem."""
    if isinstance(document, dict):
        return dict(document)
    if document is not None:
        name = name or "the file"
        problems.append(f"{name} must be a mapping of settings, got {document!r:.60}")
    return {}


def _known_values(
    document: object, settings: type[Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """The settings in a mapping that exist; those that do not are problems."""
    given = _mapping(document, prefix.rstrip("."), problems)
    known = {field.name for field in fields(settings)}
    problems += [f"unknown setting {f'{prefix}{key}'!r}" for key in given if key not in known]
    return {key: value for key, value in given.items() if key in known}


def _build(
    settings: type[Settings], values: dict[str, Any], problems: list[str]
) -> Settings | None:
    try:
        return settings(**values)
    except ValueError as err:
        problems.append(str(err))
        return None
