"""How fast and how right is it on a GPU?"""
