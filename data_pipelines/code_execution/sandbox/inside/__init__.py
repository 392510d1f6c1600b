"""What runs in the isolation: standard library only, and nothing of the host. Started as a package named `inside` by its parent."""
