"""Where to run: a profile (``<name>.yaml``) for each site, and a real Slurm on one machine (``sandbox``)."""
