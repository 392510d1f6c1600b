"""What to watch while preferences are trained."""

from align.diagnostics.three_d import ThreeD, Thresholds, findings, measure

__all__ = ["ThreeD", "Thresholds", "findings", "measure"]
