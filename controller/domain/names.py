"""What a name of a client, a flow or a token looks like."""

from __future__ import annotations

NAME_PATTERN = r"^[A-Za-z0-9_.:@-]+( +[A-Za-z0-9_.:@-]+)*$"
NAME_RULE = "a name has letters, digits and _ . : @ -, with spaces only between them"
LONGEST_NAME = 64
