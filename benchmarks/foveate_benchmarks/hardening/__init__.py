"""Does bad input hurt it?"""
