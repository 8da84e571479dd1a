"""`python -m trainer.cli` runs `paceline`."""

from trainer.cli.main import main

main()
