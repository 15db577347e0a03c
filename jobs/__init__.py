"""The data plane: what runs inside an allocation, each job started as ``python -m jobs.<name>``."""
