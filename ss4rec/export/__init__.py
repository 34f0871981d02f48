"""A model for programs without ss4rec: `torch.export` and ONNX."""
