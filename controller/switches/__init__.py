"""The switches at run time: what each holds, and bringing it there."""
