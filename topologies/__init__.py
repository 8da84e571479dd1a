"""Maps of networks: loading, checking, drawing; published fibre plants; the run file of an emulation."""
