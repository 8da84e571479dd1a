"""Limits on the files of maps and fibre plants: bytes, values, nesting and repetition by aliases."""

from __future__ import annotations

from pathlib import Path

import yaml

from topologies.problems import MapError

YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""By libyaml where it is there: ten times faster."""

MAX_BYTES = 16 << 20
MAX_VALUES = 200_000
"""Values of a YAML file after every alias is replaced by what it stands for."""
MAX_DEPTH = 32
"""Values within values; a map has five levels."""


def read_bounded(path: Path) -> bytes:
    """The content of a file.

    Raises: MapError if it is larger than MAX_BYTES; OSError.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise MapError([f"{path}: the file is larger than {MAX_BYTES} bytes; a map of 1000 links has 100 kB"])
    return content


def check_yaml_size(text: str, name: str) -> None:
    """Check a YAML document as its events are read, before anything is built of it.

    Raises: MapError; YAMLError if it is no YAML.
    """
    sizes: dict[str, int] = {}
    """Values that an alias stands for; of an anchor within which the document is: none."""
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=YamlLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, count))
            count += 1
            if len(opened) > MAX_DEPTH:
                raise MapError([f"{name}:{line}: values are nested more than {MAX_DEPTH} deep; a map has five levels"])
        elif isinstance(event, yaml.CollectionEndEvent):
            name_of_opened, before = opened.pop()
            if name_of_opened is not None:
                sizes[name_of_opened] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise MapError([f"{name}:{line}: *{anchor} stands for no complete value; write the value here"])
            count += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if anchor is not None:
                sizes[anchor] = 1
        if count > MAX_VALUES:
            sentence = f"with its aliases the file has more than {MAX_VALUES} values; write fewer"
            raise MapError([f"{name}:{line}: {sentence}"])
