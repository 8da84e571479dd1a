"""Path computation (the PCE)."""
