"""Recipe files: the settings of a sweep as YAML, by the names of its options with underscores.

    extends: pets-frozen           # a preset, or a file named from this one's folder; else the options' own defaults
    learning_rate: 1e-3
    variants:                      # a list, or short labels, which tables use
      baseline: baseline
      eight: multi-attention:num_masks=8

A file is read as text by PyYAML's safe parser, without tags, anchors and aliases, and its values as the command line's:
paths, except that of `extends`, start in the working directory, too.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, get_origin, get_type_hints

import yaml

from catdog.config.presets import PRESETS, preset_config
from catdog.config.recipe import Recipe, as_settings, kinds_of, option_name, parse_value
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import split_short_label
from catdog.errors import UserError, first_line
from catdog.formatting import shorten

MOST_BYTES = 200_000
"""PyYAML takes some seconds to read this much."""
EXTENDS = "extends"
_RECIPE = [field.name for field in dataclasses.fields(Recipe)]
_ACTIONS = ("dry_run", "notify", "print_config")
"""Options that are no settings: they say what to do now, and whom to tell, with tokens that no file keeps."""
_NO_OPTIONS = ("preset", "imported")
SETTINGS = {
    name.replace("imports", "import"): name  # the option is --import
    for field in dataclasses.fields(SweepConfig)
    for name in (_RECIPE if field.name == "recipe" else [field.name])
    if name not in (*_ACTIONS, *_NO_OPTIONS)
}
"""What a recipe file can set, in the order of the options, and the fields it sets."""
_HINTS: Mapping[str, Any] = get_type_hints(SweepConfig) | get_type_hints(Recipe)


def named_config(name: str) -> SweepConfig:
    """Return the preset of this name, or what the recipe file at this path describes; raises `UserError`."""
    return _read(name) if name not in PRESETS and _is_path(name) else preset_config(name)


def changed_config(name: str, settings: Mapping[str, object]) -> SweepConfig:
    """Return a named config with settings of a recipe file, given as Python values; raises `UserError`."""
    if unknown := [setting for setting in settings if setting not in SETTINGS]:
        raise UserError(f"{shorten(unknown[0])}: no such setting; perhaps {_nearest(unknown[0])}")
    dumper = yaml.SafeDumper("")
    return _applied(named_config(name), name, {key: dumper.represent_data(one) for key, one in settings.items()}, name)


def recipe_yaml(config: SweepConfig, **changes: object) -> str:
    """Return the recipe file, in ASCII, that describes all of `config`, the run's name included, and extends nothing.

    `changes` are other values of its fields. Only `dry_run` and `notify` are left out, which are no settings.
    """
    values = dataclasses.asdict(config) | dataclasses.asdict(config.recipe) | {"run": config.run_name} | changes
    split = [split_short_label(text) for text in values["variants"]]
    has_short = any(short for short, _ in split)
    values["variants"] = {short or label: label for short, label in split} if has_short else values["variants"]
    plain = {
        name: list(values[field]) if isinstance(values[field], tuple) else values[field]
        for name, field in SETTINGS.items()
    }
    return str(yaml.safe_dump(plain, sort_keys=False, width=1_000_000))


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or os.path.isfile(name)


def _read(path: str) -> SweepConfig:
    """Read a file, the one that it extends, and so on; return the settings of the last one, changed by each before."""
    files: dict[str, tuple[str, dict[str, yaml.Node]]] = {}
    base: str | None = path
    while base is not None and base not in PRESETS:
        name, place = base, os.path.realpath(base)
        if place in files:
            chain = ", which extends ".join([*(name for name, _ in files.values()), base])
            raise UserError(f"{chain}: a recipe file cannot extend itself; remove one of the lines 'extends'")
        nodes = _settings(name)
        base = _base(name, nodes.pop(EXTENDS, None))
        files[place] = name, nodes
    # Only the last files of heads count, before anything names their heads; and so do only the last variants.
    imports, variants = (_last(files.values(), *settings) for settings in (("import",), ("variants", "grid")))
    config = PRESETS[base] if base is not None else SweepConfig(preset="recipe")
    for name, nodes in [*imports, *reversed(files.values()), *variants]:
        config = _applied(config, name, nodes, config.preset)
    return _applied(config, path, {}, path)


def _last(files: Iterable[tuple[str, dict[str, yaml.Node]]], *settings: str) -> list[tuple[str, dict[str, yaml.Node]]]:
    """Take settings out of all files; return the first file that has one, with the first value of each."""
    found = [(name, setting, nodes.pop(setting)) for name, nodes in files for setting in settings if setting in nodes]
    first = {setting: node for _, setting, node in reversed(found)}
    return [(found[0][0], first)] if found else []


def _base(path: str, node: yaml.Node | None) -> str | None:
    """Return what a file extends: a preset's name, or another file's path."""
    if node is None:
        return None
    base = _as(path, EXTENDS, str, node)
    if base in PRESETS:
        return str(base)
    other = os.path.join(os.path.dirname(path), base)
    if not _is_path(other):
        raise UserError(f"{path}: extends {shorten(base)}: choose from {', '.join(PRESETS)}, or name a recipe file")
    return other


def _applied(config: SweepConfig, path: str, nodes: Mapping[str, yaml.Node], preset: str) -> SweepConfig:
    values = {SETTINGS[name]: _as(path, name, _HINTS[SETTINGS[name]], node) for name, node in nodes.items()}
    own = {name: values.pop(name) for name in _RECIPE if name in values}
    try:
        return dataclasses.replace(config, preset=preset, recipe=dataclasses.replace(config.recipe, **own), **values)
    except UserError as error:  # its options are settings here
        raise UserError(f"{path}: {as_settings(str(error))}") from None


def _settings(path: str) -> dict[str, yaml.Node]:
    """Return a file's settings as YAML's nodes, which hold a value's text as it is written."""
    try:
        root = _parse(_content(path))
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{path}: line {error.problem_mark.line + 1}: {error.problem}") from None
    except (OSError, OverflowError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {first_line(error)}") from None
    nodes: dict[str, yaml.Node] = {}
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        if name in nodes:
            raise UserError(f"{path}: {name}: given twice, the second time in line {key.start_mark.line + 1}; keep one")
        if name in _ACTIONS:
            raise UserError(
                f"{path}: {name}: no setting; give {option_name(name)} on the command line, or leave it out"
            )
        if name not in (EXTENDS, *SETTINGS):
            raise UserError(f"{path}: {shorten(name)}: no such setting; perhaps {_nearest(name)}")
        nodes[name] = value
    return nodes


def _nearest(name: str) -> str:
    plain = name.lower().strip("-").replace("-", "_")
    if plain == "preset":
        return EXTENDS
    return difflib.get_close_matches(plain, (EXTENDS, *SETTINGS), n=1, cutoff=0.0)[0]


def _content(path: str) -> str:
    if not os.path.exists(path):
        raise ValueError("there is no such file; with `ray job submit` it must lie in the working directory")
    if not os.path.isfile(path):
        raise ValueError("is no file; give a recipe file")
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES:,} bytes: it is no recipe file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text; save it as UTF-8") from None


def _parse(text: str) -> yaml.MappingNode:
    """Return the root of the YAML; raises `ValueError` or yaml's error for what is no plain mapping of settings."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "?"
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(f"{line}: tags, anchors and aliases (!, &, *) are not read; write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 2:
            raise ValueError(f"{line}: is nested too deeply; write setting: value")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        raise ValueError("is empty; write setting: value, one a line")
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("is no mapping; write setting: value, one a line")
    return root


def _as(path: str, name: str, hint: Any, node: yaml.Node) -> Any:
    """Return a setting's value as its type; raises `UserError` naming file and setting."""
    try:
        is_named = name == "variants" and isinstance(node, yaml.MappingNode)
        return _named_variants(node) if is_named else _value(hint, node)
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from None


def _named_variants(node: yaml.MappingNode) -> tuple[str, ...]:
    """Return the variants of a mapping from short labels."""
    pairs = [(_value(str, key), _value(str, value)) for key, value in node.value]
    return tuple(label if label == short else f"{short}={label}" for short, label in pairs)


def _value(hint: Any, node: yaml.Node) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError("give a list")
        return tuple(_value(str, item) for item in node.value)
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("give a single value")
    kinds = kinds_of(hint)
    is_null = node.tag == "tag:yaml.org,2002:null"
    if type(None) in kinds and (is_null or node.value == "None"):  # as the options spell it
        return None
    if is_null:
        raise ValueError("has no value; give one, or leave the line out")
    return parse_value(hint, str(node.value))
