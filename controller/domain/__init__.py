"""What is spoken about: frozen values, no behaviour that needs anything else."""
