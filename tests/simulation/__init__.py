"""The real decisions of lease, log, tail and client in a simulated world: one thread, one seed, no waiting.

    clock       simulated time, and what happens next in it
    network     delays, losses, partitions
    tables      what the store holds, and what its statements do
    stores      transactions on one machine's file, and on a database server
    locks       the kernel's file lock, and a session's advisory lock
    process     one life of a replica: the keeper, the writer, the tail and the service around the real code
    shopper     a client that writes and reads through the real write, read and session code
    faults      what goes wrong, and how often
    invariants  what must never happen; the first breach ends the run
    simulation  one run: the world of a seed
    mistakes    known bugs, planted to show that the invariants would notice them
    table       the table of them: python -m tests.simulation.table

A run is a function of its seed. One that fails says how to replay it.
"""
