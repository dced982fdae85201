"""OpenVINO GenAI in process."""
