"""What people do with a captioner: caption files at scale, search and label them, show it in an app."""
