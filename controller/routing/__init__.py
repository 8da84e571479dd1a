"""Path computation: k shortest paths, disjoint pairs, coflow completion times."""
