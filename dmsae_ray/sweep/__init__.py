"""Ray Tune over Ray Train: the grid, its plan, the worker of a trial and the controller of a sweep."""
