"""What a campaign leaves: the store, its cells, their statistics and the result objects.

Nothing here imports torch or draws anything.
"""
