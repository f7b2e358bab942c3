"""The Rust core against independent Python: numpy, LightGBM, ONNX Runtime."""
