"""Many runs from one command: which there are, which are missing, and who looks after them."""
