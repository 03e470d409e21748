"""The network families that Stitch Sweep defines."""
