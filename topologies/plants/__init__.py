"""Fibre plants: sites and spans by name or from a file, checked, with every estimate and omission as a note."""
