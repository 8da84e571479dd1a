"""Who may do what, how they prove it, and the log of what they asked."""
