"""What people read of their runs: run folders, statistics over seeds, pictures and tables."""
