"""What is trained and evaluated on."""
