"""Run an untrusted program away from everything that matters."""
