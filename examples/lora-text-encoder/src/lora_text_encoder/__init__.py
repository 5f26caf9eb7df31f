"""Which entry of a handbook answers what a colleague says?"""
