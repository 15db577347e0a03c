"""A role that runs any program, with addresses and outputs of other roles filled in."""
