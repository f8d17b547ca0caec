"""Throughput measured side by side with what one would use instead."""

MACHINE = ("trainer.accelerator", "trainer.precision", "trainer.compile")
"""Settings that say how the machine is used; contestants share them."""
