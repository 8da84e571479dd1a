"""The data set `debian-sections`: descriptions of Debian's packages, to be classified by their section of the archive.

Every Debian system has them: `apt-cache dumpavail` prints what `apt-get update` has fetched. They are read as token ids
of the model all-MiniLM-L6-v2.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby

import torch

from trainer.data.dataset import DataSet, Samples
from trainer.data.wordpiece import WordPiece
from trainer.errors import DataError
from trainer.wheel_files import MINILM_PACKAGE, MINILM_VERSION, package_file

SECTIONS = ("admin", "editors", "fonts", "games", "graphics", "mail", "math", "net", "perl", "python", "science",
            "sound")
"""The classes: sections whose packages are about something, or for a language."""
MAX_PACKAGES = 600
"""Largest number of packages of a section; the digest of their names chooses."""
MIN_PACKAGES = 100
HELD_OUT_SHARE = 5
"""One source package of this many is held out."""
TOKENS = 32
"""Ids of a sample; a synopsis has about ten, further ones are of the long description where there is one."""
DUMP = ("apt-cache", "dumpavail")
TIMEOUT_S = 120.0


def load_debian_sections() -> DataSet:
    """Load token ids (N, 32) in twelve classes; no source package has descriptions in both parts.

    A description that occurs twice counts once.

    Raises: DataError if the package lists or the model's vocabulary are missing.
    """
    vocabulary = package_file(MINILM_PACKAGE, MINILM_VERSION, "vocab.txt")
    words = WordPiece(vocabulary.read_text(encoding="utf-8").splitlines())
    train: list[tuple[str, int]] = []
    held_out: list[tuple[str, int]] = []
    for source, section, text in _packages(_dump()):
        part = held_out if _digest(source) % HELD_OUT_SHARE == 0 else train
        part.append((text, SECTIONS.index(section)))
    return DataSet(_samples(words, train), _samples(words, held_out), len(SECTIONS))


def _samples(words: WordPiece, rows: list[tuple[str, int]]) -> Samples:
    ids = [words.encode(text, TOKENS) for text, _ in rows]
    return Samples(torch.tensor(ids, dtype=torch.int64), torch.tensor([label for _, label in rows]))


def _dump() -> str:
    try:
        ran = subprocess.run(DUMP, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=True)
    except FileNotFoundError:
        raise DataError("There is no apt-cache here: debian-sections is made of the package lists of a Debian "
                        "system.") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"apt-cache dumpavail failed: {error}.") from error
    return ran.stdout


def _packages(dump: str) -> list[tuple[str, str, str]]:
    """Return (source, section, description) of the packages that are used, in an order that depends on names alone.

    Raises: DataError if there are too few.
    """
    unique = {text: (section, _digest(name), source, text) for name, source, section, text in sorted(_stanzas(dump))}
    kept: list[tuple[str, str, str]] = []
    rows = sorted(unique.values())
    for section, group in groupby(rows, key=lambda row: row[0]):
        members = list(group)[:MAX_PACKAGES]
        if len(members) < MIN_PACKAGES:
            raise DataError(f"The package lists have {len(members)} descriptions in section {section}; at least "
                            f"{MIN_PACKAGES} are needed. Fetch them: apt-get update")
        kept += [(source, section, text) for _, _, source, text in members]
    if len({section for _, section, _ in kept}) < len(SECTIONS):
        raise DataError("The package lists are empty or have not all sections; fetch them: apt-get update")
    return kept


def _stanzas(dump: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, source package, section and description of every package in one of the sections."""
    for stanza in dump.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] == " ":
                fields[name] += " " + ("" if line.strip() == "." else line.strip())
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        text = fields.get("Description") or fields.get("Description-en", "")
        if fields.get("Section") in SECTIONS and text and "transitional" not in text and "dummy" not in text:
            source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
            yield fields.get("Package", ""), source, fields["Section"], " ".join(text.split())


def _digest(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8])
