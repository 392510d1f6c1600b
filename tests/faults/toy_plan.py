"""The stages of a toy run: numbers in a journal, their sum, a copy of it."""

from align.runs import Output, Stage


def stages():
    return [
        Stage("one", "toy_stages:numbers", {"count": 7}),
        Stage("two/deep", "toy_stages:total", {}, {"units": Output("one", "units")}),
        Stage("three", "toy_stages:whole", {}, {"total": Output("two/deep", "total.json")}),
    ]
