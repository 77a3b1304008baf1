"""What tests share: a real server, and folders to run it in."""
