"""Local processes: fork, launch, memory allocation."""
