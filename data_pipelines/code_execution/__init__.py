"""Code preferences: programs sampled from a model, judged by running their tests in a sandbox."""
