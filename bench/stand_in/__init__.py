"""Work without a model, the same for everybody who is measured: what is left is the launcher's share."""
