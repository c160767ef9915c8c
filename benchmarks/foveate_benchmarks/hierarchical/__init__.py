"""Do fewer tokens shorten hierarchical models?"""
