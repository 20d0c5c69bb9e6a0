"""The checker of annotations and shapes that the test run switches on."""

from beartype import BeartypeConf, beartype

# PEP 484's numeric tower: an int where a float is asked for, as mypy takes it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
