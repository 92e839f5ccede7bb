"""Configuration: values in `conf/`, meaning in the stages' own dataclasses, bound strictly.

Hydra composes `conf/<group>/<name>.yaml` (whose first line is `# @package _global_`, so that keys need no prefix) with `key=value` overrides; `bind` turns the result into frozen dataclasses. An unknown
key, a wrong type or a missing value is a `ConfigError` that names the file and the key.
"""

import dataclasses
import enum
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from manifests import ids

CONF = Path(__file__).resolve().parent.parent / "conf"
T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, key, expected and found."""


def load(cls: type[T], group: str, name: str, overrides: list[str] | None = None) -> T:
    """`conf/<group>/<name>.yaml` (or a path to a YAML file of the same form) with overrides, as the dataclass."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    folder, config_name = _locate(group, name)
    where = f"conf/{group}/{name}.yaml" if folder == CONF else name
    try:
        with initialize_config_dir(config_dir=str(folder), version_base=None):
            search = [] if folder == CONF else [f"hydra.searchpath=[file://{CONF}]"]
            composed = compose(config_name=config_name, overrides=[*search, *map(_override, overrides or [])])
        data = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {_first_lines(error)}") from error
    return bind(cls, data, where)


def available(group: str) -> list[str]:
    """The names of the configurations of a group."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def bind(cls: type[T], data: Any, where: str, key: str = "") -> T:
    """The dataclass with the values of the mapping; nested dataclasses, tuples, mappings, options and literals are bound too."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: {key or 'the whole'} is {data!r}, expected keys of {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for unknown in sorted(set(data) - set(fields), key=str):
        raise ConfigError(f"{where}: unknown key {_join(key, unknown)}; {cls.__name__} has {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values = {name: _value(hints[name], data[name], where, _join(key, name)) for name in fields if name in data}
    missing = [
        n for n, f in fields.items() if n not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"{where}: {_join(key, missing[0])} is missing; expected {getattr(hints[missing[0]], '__name__', hints[missing[0]])}"
        )
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {key or cls.__name__}: {error}") from error


def without_unknown(cls: type, data: Any) -> Any:
    """Stored settings without the keys that the dataclass does not have any more: those of a run of an older version still bind."""
    if not isinstance(data, dict):
        return data
    hints = typing.get_type_hints(cls)
    kept = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
    for name, value in kept.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            kept[name] = without_unknown(typing.cast(type, hint), value)
        elif typing.get_origin(hint) is dict and isinstance(value, dict) and dataclasses.is_dataclass(typing.get_args(hint)[1]):
            kept[name] = {k: without_unknown(typing.get_args(hint)[1], v) for k, v in value.items()}
    return kept


def with_overrides(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of nested settings with `a.b=value` changes; values are YAML. `bind` judges whether the keys exist."""
    import copy

    import yaml

    changed = copy.deepcopy(data)
    for override in overrides:
        path, _, value = override.partition("=")
        *parents, last = path.split(".")
        level = changed
        for name in parents:
            level = level.setdefault(name, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{override}: {name} is a value, expected a group of settings")
        level[last] = yaml.safe_load(value)
    return changed


def to_json(config: Any) -> str:
    """The resolved configuration, or the settings that were made of one, as canonical JSON."""
    return json.dumps(config if isinstance(config, dict) else dataclasses.asdict(config), sort_keys=True, default=str)


def to_record(config: Any) -> str:
    """The resolved configuration as JSON for a run's record: with the rules in funnel order, which `to_json` sorts away."""
    return json.dumps(dataclasses.asdict(config), default=str)


def digest(config: Any) -> str:
    """32 hexadecimal digits that change with any value of the configuration."""
    return ids.digest("config/v1", to_json(config))


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        inner = [a for a in arguments if a is not types.NoneType]
        return _first_fit(inner, value, where, key)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {key} is {value!r}, expected one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where, key)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} is {value!r}, expected a mapping")
        _need_complete(arguments[1], value, where, key)
        return {str(k): _value(arguments[1], v, where, _join(key, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return bind(typing.cast(type[Any], hint), value, where, key)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return _scalar(hint, value, where, key)


def _need_complete(cls: Any, entries: dict[Any, Any], where: str, key: str) -> None:
    """ConfigError for an entry that a mistyped name made: it lacks what every entry has, beside others that are whole."""
    if not dataclasses.is_dataclass(cls):
        return
    needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for name, entry in entries.items():
        lacking = [n for n in needed if n not in entry] if isinstance(entry, dict) else []
        if lacking and len(entries) > 1:
            others = ", ".join(sorted(str(n) for n in entries if n != name))
            raise ConfigError(
                f"{where}: there is no {_join(key, name)}, and as a new one it lacks {', '.join(lacking)}; there are {others}"
            )


def _scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    raise ConfigError(f"{where}: {key} is {value!r}, expected {getattr(hint, '__name__', hint)}")


def _tuple(arguments: tuple[Any, ...], value: Any, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: {key} is {value!r}, expected a list")
    if arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if len(arguments) != len(value):
        raise ConfigError(f"{where}: {key} has {len(value)} values, expected {len(arguments)}")
    return tuple(_value(a, v, where, f"{key}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _first_fit(hints: list[Any], value: Any, where: str, key: str) -> Any:
    errors = []
    for hint in hints:
        try:
            return _value(hint, value, where, key)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _locate(group: str, name: str) -> tuple[Path, str]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"{name}: no such file")
        return path.resolve().parent, path.stem
    if not (CONF / group).is_dir():
        kind, _, stage = group.rpartition("/")
        known = ", ".join(sorted(p.name for p in (CONF / kind).iterdir() if p.is_dir()))
        raise ConfigError(f"there is no {kind} configuration of {stage!r}; there are some of {known}")
    if not (CONF / group / f"{name}.yaml").is_file():
        raise ConfigError(f"there is no configuration {name!r} in conf/{group}; there are {', '.join(available(group)) or 'none'}")
    return CONF, f"{group}/{name}"


def _override(text: str) -> str:
    """`key=value` for any key, also one that the file leaves to its default; `bind` refuses keys that do not exist."""
    key = text.partition("=")[0]
    return text if key[:1] in "+~" or "@" in key or "/" in key else f"++{text}"


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3] if line.strip())


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
