"""The SS4Rec model and its objectives."""
