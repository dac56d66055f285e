"""Measures fastps beside the limits of the machine and what users would pick instead."""
