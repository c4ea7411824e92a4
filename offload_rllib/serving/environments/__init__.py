"""An environment as a service: sessions that clients reset and step over HTTP."""
