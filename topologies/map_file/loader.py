"""Reads and validates a map file; reports all mistakes at once, each with file, line, value and a correction."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from topologies.file_limits import YamlLoader, check_yaml_size, read_bounded
from topologies.map_file.checks import Mistake, check_semantics
from topologies.map_file.schema import MapFile, as_map
from topologies.maps import Map
from topologies.problems import MapError
from topologies.text_encoding import check_content, decoded

DIRECTORY = Path(__file__).parents[1]


def known_maps() -> list[str]:
    """The names of the maps shipped with Paceline."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def map_path(name_or_path: str) -> Path:
    """The file of a map, given by its name (a map shipped with Paceline) or by its path.

    Raises: MapError if there is no such map.
    """
    named = DIRECTORY / f"{name_or_path}.yaml"
    path = named if named.exists() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(known_maps())
        raise MapError([f"no map {name_or_path!r}: use one of {known}, or the path of a YAML file"])
    return path


def load_map(name_or_path: str) -> Map:
    """Load and validate the map of that name or path.

    Raises: MapError with every mistake found.
    """
    path = map_path(name_or_path)
    try:
        content = read_bounded(path)
        check_content(content)
        text = decoded(content)
        check_yaml_size(text, str(path))
        repeated = [f"{path}:{line}: `{key}` stands twice here; write it once"
                    for line, key in _repeated_keys(yaml.compose(text, Loader=YamlLoader))]  # fmt: skip
        raw = yaml.load(text, Loader=YamlLoader)
    except MapError:
        raise
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise MapError([f"{path}: not a readable YAML file: {' '.join(str(error).split())}"]) from error
    if repeated:
        raise MapError(repeated)
    schema_mistakes, file = _check_schema(raw)
    mistakes = schema_mistakes + list(check_semantics(raw))
    if mistakes or file is None:
        lines = _lines(yaml.compose(text, Loader=YamlLoader))
        raise MapError([_sentence(path, lines, mistake) for mistake in mistakes])
    return as_map(file)


def _check_schema(raw: object) -> tuple[list[Mistake], MapFile | None]:
    try:
        return [], MapFile.model_validate(raw)
    except ValidationError as error:
        return [
            Mistake(fault["loc"], fault["input"], _advice(fault["type"], fault["msg"])) for fault in error.errors()
        ], None


def _advice(kind: str, message: str) -> str:
    if kind == "missing":
        return "this entry is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "this must have entries, such as `name: example`"
    if kind == "extra_forbidden":
        return "there is no such entry; remove it or correct its spelling"
    if kind == "string_pattern_mismatch":
        return "a name is a lower-case letter and up to 8 further lower-case letters or digits"
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _lines(node: yaml.Node | None, location: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], int]:
    """The line number of every location (keys and indices from the root) in the file."""
    if node is None:
        return {}
    lines = {location: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*location, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*location, index))
    return lines


def _repeated_keys(root: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Line and name of every entry that a mapping has twice, of which YAML takes the last."""
    nodes = [] if root is None else [root]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                if str(key.value) in keys:
                    yield key.start_mark.line + 1, str(key.value)
                keys.add(str(key.value))
                nodes.append(value)
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def _sentence(path: Path, lines: dict[tuple[str | int, ...], int], mistake: Mistake) -> str:
    known = mistake.location
    while known and known not in lines:
        known = known[:-1]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in mistake.location).lstrip(".")
    value = "" if isinstance(mistake.value, dict) else f" = {reprlib.repr(mistake.value)}"
    return f"{path}:{lines.get(known, 1)}: {where or 'the file'}{value}: {mistake.advice}"
