"""How far the graph is: what is current, what someone is at, what failed and what comes next."""
