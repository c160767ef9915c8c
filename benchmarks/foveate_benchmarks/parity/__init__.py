"""Does an imported model answer as its original does?"""
