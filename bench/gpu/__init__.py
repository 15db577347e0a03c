"""What training costs on a GPU. See ``__main__``."""
