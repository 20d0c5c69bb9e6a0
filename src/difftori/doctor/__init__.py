"""What this machine has for a run, what it lacks, and how long the run would take here.

Nothing heavy is imported at the top of these files: a package that is missing or broken is a
line of the report.
"""
