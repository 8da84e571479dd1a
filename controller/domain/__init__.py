"""The domain model: frozen values that depend on no other package."""
