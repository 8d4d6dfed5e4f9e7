"""What tests share: tiny random models, data, runs, and a server that speaks the Hub's API."""
