"""The language-model side: load, render, batch, one forward pass, warm-up tuning."""
