"""From judged cells and the model's figures to verdicts, `report.json`, a page and Weights & Biases."""
