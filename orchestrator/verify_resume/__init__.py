"""``orchestrator verify-resume``: proof, for one recipe, that a run that is killed ends with the same bits.

proof          two runs of the recipe: one is left alone, one is killed again and again
kills          which processes are killed when (pure), and where a run is now
strike         the killing
comparison     what both runs left behind, line by line and file by file
promise        which of that has to be equal, for these settings
certificate    what is written down, and the table
"""
