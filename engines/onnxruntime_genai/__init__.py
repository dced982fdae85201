"""ONNX Runtime GenAI in this process."""
