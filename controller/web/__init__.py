"""What clients see: FastAPI under /v1, its words and examples, and what stands around every request."""
