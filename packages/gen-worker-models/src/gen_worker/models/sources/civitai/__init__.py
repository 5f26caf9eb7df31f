"""Models of Civitai: single safetensors files, checked against their SHA256."""
