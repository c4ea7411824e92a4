"""An environment behind HTTP: the faces of a service that plays it (`serving.environments`)."""
