"""Does the control keep its promises?"""
