"""A pair rule of a user's own."""


def first_over_last(count):
    return [(0, count - 1)]
