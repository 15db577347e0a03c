"""Every crash point: what is on the disk is dropped, torn and filled up at each call that changes it.

    python -m tests.crash_points                  the table, over all scenarios
    python -m tests.crash_points 'prune' 'ledger' those whose name contains a word

A small library (``shim.c``) is preloaded into a process that does one thing: save, journal, prune. It counts
the calls that change files below one folder; the process is forked once for every call and every kind of
fault, and afterwards the state that loads has to be the old one or the new one (SQLite tests itself this
way). It is one process on a local disk: names that were written are taken to survive, contents only if they
were synced.
"""
