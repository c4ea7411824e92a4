"""A saved policy as a service: observations in, actions out, over HTTP."""
