"""The service: wiring, gRPC services, the catalogue's log, and the standbys."""
