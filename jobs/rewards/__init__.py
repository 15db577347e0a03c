"""Rewards: what a response earns, part by part, and the client that asks the judge.

``settings`` is what a recipe says, ``registry`` names every reward, ``scorer`` adds the parts up.
What a part measures is a pure function in ``eval``, so that training and evaluation agree.
"""
