"""Reports: what experiments write and draw."""
