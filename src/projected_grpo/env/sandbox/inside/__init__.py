"""What runs inside the sandbox. Imports the standard library only, and nothing of this package.

`server` is the fork server: a `monitor` that watches programs and a `template` that forks them.
`program` is the child that runs one completion. `namespaces` and `seccomp` are the system calls
that confine it, `watch` reads what it uses, `wire` is the plain-data encoding that the outside
shares.
"""
