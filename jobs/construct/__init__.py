"""Builds visual annotations for plain problems, the way Perception-R1 describes it and published no code for.

A teacher that sees the image writes a solution; solutions with a wrong answer go; a text model lists the visual
facts that a right one states; facts that cannot be used go. What is left is a parquet file in Perception-R1's
schema, with where every row comes from. Every request that was answered is kept and never paid for again.
"""
