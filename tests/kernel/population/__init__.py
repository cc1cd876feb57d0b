"""A population of programs that check themselves while they are enrolled and released."""
