"""Entry points: the controller process, the Ryu-hosted variant and commands."""
