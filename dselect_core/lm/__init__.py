"""Language models and encoders: identify, open, render, batch, one forward pass, losses, warm-up tuning."""
