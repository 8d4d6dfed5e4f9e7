"""Experiments: bridges fitted and measured, and decoders trained behind them, by plain arguments."""
