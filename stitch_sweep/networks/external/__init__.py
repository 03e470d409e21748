"""Networks from torchvision, timm or a Python file."""
