"""How a run is started: the command line, and the places that work can be put."""
