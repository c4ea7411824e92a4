"""Files of other simulators and of clusters, as environments and recordings of this project."""
