"""Network calculus below `controller/bounds.py`: curves, busy periods, the fixed point. Pure."""
