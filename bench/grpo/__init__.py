"""What a GRPO step costs, beside TRL's. See ``__main__``."""
