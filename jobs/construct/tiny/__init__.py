"""A tiny extractor for the laptop recipe: a text model that rewrites a response's claims as visual facts."""
