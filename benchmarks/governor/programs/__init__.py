"""The programs that the loads are made of; each is enrolled before it takes its memory."""
