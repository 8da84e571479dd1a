"""The reservation service: admission, installation, lifecycle and queries over one shared state."""
