"""One module a revision, in order. Each must leave the code of the revision before it able to run."""
