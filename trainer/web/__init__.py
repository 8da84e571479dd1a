"""The page of `paceline web`: the network and the runs, live, and what can be done with them."""
