"""What runs inside the sandbox. Imports the standard library only, and nothing of this package.

`server` is the fork server, `program` the child that runs one completion, `namespaces` the system
calls of both. `wire` is the plain-data encoding that the outside shares.
"""
