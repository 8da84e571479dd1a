"""The switches at run time: applied and intended state, updates, verification, links."""
