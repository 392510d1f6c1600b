"""A user's own data: what it is, the recipe that fits it, what a model sees of it, and its conversion to other forms."""
