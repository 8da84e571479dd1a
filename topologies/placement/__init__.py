"""From a fibre plant to a map: sites of edges and cloud, regenerators, rates, scale."""
